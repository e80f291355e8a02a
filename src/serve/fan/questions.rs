//! What each leaf is asked: the client's request, edited for it, as a request of its own.
//!
//! Asks nobody. A question keeps what the client said, but for what would have leaves answer in parts, in pieces or in code.

use std::borrow::Cow;
use std::sync::Arc;

use super::Gather;
use crate::filters::headers::Edits;
use crate::proto::http1::Known;
use crate::route::HeadLookup;
use crate::serve::compose::Nominations;
use crate::services::Service;
use crate::services::scatter::{Each, Leaf, Leaves, Scatter, pool_of};
use crate::telemetry::metrics::LeafMetrics;
use crate::upstream::EndpointId;
use crate::upstream::hedge::Hedging;
use crate::value::{Lookup, Variable};

/// One leaf's.
pub struct Question<'g> {
    /// The leaf's, or the item.
    pub name: String,
    pub service: &'g Service,
    /// Of a pool whose endpoints are leaves.
    pub only: Option<EndpointId>,
    pub hedging: Option<&'g Hedging>,
    pub head: Vec<u8>,
    pub body: Cow<'g, [u8]>,
    metrics: Option<Arc<LeafMetrics>>,
}

impl Question<'_> {
    pub fn metrics(&self, scatter: &Scatter) -> Arc<LeafMetrics> {
        self.metrics.clone().unwrap_or_else(|| scatter.leaf_metrics(&self.name))
    }
}

/// Items that one request may ask for.
const ITEMS_MAX: usize = 1000;

/// `None` if there are too many.
pub fn questions<'g>(gather: &Gather<'g>) -> Option<Vec<Question<'g>>> {
    let scatter = gather.scatter;
    match (&scatter.leaves, &scatter.each) {
        (Leaves::Services(leaves), Some(each)) => {
            let leaf = leaves.first()?;
            let items = items(gather, each)?;
            let count = items.len();
            Some(items.iter().enumerate().map(|(index, item)| of_item(gather, leaf, each, item, index, count)).collect())
        }
        (Leaves::Services(leaves), None) => {
            let count = leaves.len();
            let of = |(index, leaf): (usize, &'g Leaf)| Question {
                name: leaf.name.clone(),
                service: &leaf.service,
                only: None,
                hedging: leaf.hedging.as_deref(),
                head: head(gather, &Asked { leaf: &leaf.name, index, count, item: b"" }, gather.head.query, gather.body.len()),
                body: Cow::Borrowed(gather.body),
                metrics: Some(Arc::clone(&leaf.metrics)),
            };
            Some(leaves.iter().enumerate().map(of).collect())
        }
        (Leaves::Pool(service), _) => {
            let membership = pool_of(service)?.membership();
            let count = membership.members().len();
            let questions = membership.members().iter().enumerate().map(|(index, member)| Question {
                name: member.endpoint.name.clone(),
                service,
                only: Some(member.endpoint.id),
                hedging: None,
                head: head(gather, &Asked { leaf: &member.endpoint.name, index, count, item: b"" }, gather.head.query, gather.body.len()),
                body: Cow::Borrowed(gather.body),
                metrics: None,
            });
            Some(questions.collect())
        }
    }
}

/// As they were written, in their order.
fn items(gather: &Gather<'_>, each: &Each) -> Option<Vec<Vec<u8>>> {
    let items: Vec<Vec<u8>> = match each {
        Each::Query(name) => {
            let pairs = gather.head.query.unwrap_or_default().split(|&byte| byte == b'&');
            let values = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
            // A comma that belongs to an item is encoded.
            values.flat_map(|value| value.split(|&byte| byte == b',')).filter(|item| !item.is_empty()).map(<[u8]>::to_vec).collect()
        }
        Each::Json(place) => {
            let document: serde_json::Value = serde_json::from_slice(gather.body).ok()?;
            let array = place.iter().try_fold(&document, |value, key| value.get(key.as_str()))?;
            array.as_array()?.iter().map(|item| item.to_string().into_bytes()).collect()
        }
    };
    (items.len() <= ITEMS_MAX).then_some(items)
}

fn of_item<'g>(gather: &Gather<'g>, leaf: &'g Leaf, each: &Each, item: &[u8], index: usize, count: usize) -> Question<'g> {
    let (query, body): (Cow<'g, [u8]>, Cow<'g, [u8]>) = match each {
        Each::Query(name) => (Cow::Owned(query_for(gather.head.query.unwrap_or_default(), name, item)), Cow::Borrowed(gather.body)),
        Each::Json(place) => (Cow::Borrowed(gather.head.query.unwrap_or_default()), Cow::Owned(body_for(gather.body, place, item))),
    };
    let query = (!query.is_empty()).then_some(&*query);
    Question {
        name: String::from_utf8_lossy(item).into_owned(),
        service: &leaf.service,
        only: None,
        hedging: leaf.hedging.as_deref(),
        head: head(gather, &Asked { leaf: &leaf.name, index, count, item }, query, body.len()),
        body,
        metrics: Some(Arc::clone(&leaf.metrics)),
    }
}

/// A query with one item where the list was.
fn query_for(query: &[u8], name: &str, item: &[u8]) -> Vec<u8> {
    let is_list = |pair: &[u8]| pair.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='));
    let mut out = Vec::with_capacity(query.len());
    let mut has_item = false;
    for pair in query.split(|&byte| byte == b'&') {
        let is_list = is_list(pair);
        if is_list && has_item {
            continue;
        }
        if !out.is_empty() {
            out.push(b'&');
        }
        if is_list {
            has_item = true;
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            out.extend_from_slice(item);
        } else {
            out.extend_from_slice(pair);
        }
    }
    out
}

/// A body whose list has one item.
fn body_for(body: &[u8], place: &[String], item: &[u8]) -> Vec<u8> {
    let mut document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    if let Some(list) = place.iter().try_fold(&mut document, |value, key| value.get_mut(key.as_str())) {
        *list = serde_json::Value::Array(vec![serde_json::from_slice(item).unwrap_or_default()]);
    }
    document.to_string().into_bytes()
}

/// Fills templates for one leaf.
struct Asked<'q> {
    leaf: &'q str,
    index: usize,
    count: usize,
    item: &'q [u8],
}

struct LeafLookup<'q, 'g> {
    asked: &'q Asked<'q>,
    head: HeadLookup<'q, 'g>,
}

impl Lookup for LeafLookup<'_, '_> {
    fn write(&self, variable: &Variable, out: &mut Vec<u8>) {
        match variable {
            Variable::Leaf => out.extend_from_slice(self.asked.leaf.as_bytes()),
            Variable::LeafIndex => out.extend_from_slice(self.asked.index.to_string().as_bytes()),
            Variable::LeafCount => out.extend_from_slice(self.asked.count.to_string().as_bytes()),
            Variable::LeafItem => out.extend_from_slice(self.asked.item),
            other => self.head.write(other, out),
        }
    }
}

/// A head of HTTP/1, as a client would have sent it.
fn head(gather: &Gather<'_>, asked: &Asked<'_>, query: Option<&[u8]>, body: usize) -> Vec<u8> {
    let (head, scatter) = (gather.head, gather.scatter);
    let lookup = LeafLookup { asked, head: HeadLookup { head, route: "" } };
    let mut out = Vec::with_capacity(512);
    // Merging needs bodies, whatever the client is told of them.
    out.extend_from_slice(if head.method == b"HEAD" { b"GET" } else { head.method });
    out.push(b' ');
    if let Some(path) = &scatter.path {
        path.write(&lookup, &mut out);
    } else {
        out.extend_from_slice(head.path);
        if let Some(query) = query {
            out.push(b'?');
            out.extend_from_slice(query);
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
    out.extend_from_slice(if head.authority.is_empty() { b"localhost" } else { head.authority });
    out.extend_from_slice(b"\r\n");
    // Settled here, so that a client cannot have an edit below taken for its own.
    let nominations = Nominations::of(head.headers.bytes, head.headers.fields);
    for field in head.headers.fields {
        let (name, value) = (field.name.of(head.headers.bytes), field.value.of(head.headers.bytes));
        if stays(&scatter.edits, field.known, name) && !nominations.take(field.known, name) {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
    let first = out.len();
    scatter.edits.write(&lookup, &mut out);
    // What a request has in it must not become another field.
    debug_assert!(out[first..].split(|&byte| byte == b'\n').all(|line| line.is_empty() || line.ends_with(b"\r")));
    if body > 0 {
        out.extend_from_slice(format!("Content-Length: {body}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn stays(edits: &Edits, known: Known, name: &[u8]) -> bool {
    // A part of an answer, or none since it is known, or one in code, cannot be merged.
    const OURS: [&[u8]; 7] =
        [b"accept-encoding", b"range", b"if-range", b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since"];
    let is_frame = matches!(
        known,
        Known::Host
            | Known::ContentLength
            | Known::TransferEncoding
            | Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::Te
            | Known::Trailer
            | Known::Expect
            | Known::Upgrade
            | Known::Http2Settings
    );
    !is_frame && !OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours)) && !edits.drops(known, name)
}
