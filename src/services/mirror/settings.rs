//! A mirror as it is written.
//!
//! Checks what can be seen in one table; whether its services exist, compiling says.

use std::time::Duration;

use super::pointer::Pointer;
use crate::route::Method;
use crate::settings;
use crate::value::{Decode, Item, LabelText, Reader, RequestKey, ServiceRef, Share, Size, Spanned, Whole};

settings! {
    /// Copies of requests.
    pub struct Settings as "a mirror" {
        /// Answers the client.
        to: Spanned<ServiceRef>,
        /// Gets the copies.
        copy: Spanned<ServiceRef>,
        /// Of the requests that could be copied.
        share: Share = Share::percent(100),
        /// Where a request's key is read: then all requests of a key are copied, or none.
        by: Option<Spanned<RequestKey>> = None,
        /// What is copied. By default, what changes nothing.
        methods: Methods = Methods::safe(),
        /// Of a body that the copy has not taken yet; beyond that, the copy is given up.
        buffer: Size = Size::mib(1),
        /// Copies at once; beyond that, requests are not copied.
        in_flight: Whole<1, 65535> = Whole(256),
        /// For a whole copy.
        timeout: Duration = Duration::from_secs(30),
        /// What is compared of the answers.
        compare: Option<Spanned<Compare>> = None,
    }
}

settings! {
    /// What is compared of two answers.
    pub struct Compare as "what is compared" {
        status: bool = true,
        /// Headers by name.
        headers: Vec<LabelText> = Vec::new(),
        /// Bodies that are JSON.
        json: bool = false,
        /// Parts of JSON that are not looked at.
        ignore: Vec<Pointer> = Vec::new(),
        /// Numbers that differ by no more than this share are the same.
        tolerance: Share = Share::percent(0),
        /// Arrays whose order does not matter.
        unordered: Vec<Pointer> = Vec::new(),
        /// Gets a second copy, and should answer as `to` does: where it does not, nobody can.
        control: Option<Spanned<ServiceRef>> = None,
        /// The longest body that is compared.
        body: Size = Size::kib(256),
    }
}

/// Methods of requests that are copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Methods(pub Vec<Method>);

impl Methods {
    /// RFC 9110 §9.2.1, but for TRACE.
    fn safe() -> Self {
        Self(["GET", "HEAD", "OPTIONS"].map(|method| Method(method.to_owned())).into())
    }
}

impl Decode for Methods {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let methods = Vec::<Method>::decode(item, reader)?;
        if methods.is_empty() {
            reader.error(item.place, "nothing would be copied").help("write methods = [\"GET\", \"POST\"], or remove the key");
            return None;
        }
        Some(Self(methods))
    }
}

impl Settings {
    /// What no field can tell alone.
    pub fn checked(self, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(compare) = &self.compare {
            let Compare { status, headers, json, ignore, unordered, .. } = &compare.value;
            if !status && headers.is_empty() && !json {
                reader.error(compare.place, "`compare` compares nothing").help("write compare = { status = true, json = true }");
                return None;
            }
            if !json && (!ignore.is_empty() || !unordered.is_empty()) {
                reader
                    .error(compare.place, "`ignore` and `unordered` are for parts of JSON, which is not compared")
                    .help("write json = true, or remove them");
                return None;
            }
        }
        Some(self)
    }
}
