//! A pool as it is written.
//!
//! Checks what can be seen in one pool; names of other services are not its business.

use crate::upstream::Timeouts;
use crate::value::{Address, Decode, Fields, Item, LabelText, Reader, Spanned, Value, Whole};
use crate::words;

/// The endpoints and how long to wait for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Addresses that answer, each alone or as `{ address, name, weight }`.
    pub endpoints: Vec<EndpointSettings>,
    /// Whose turn it is. Only `"round-robin"`, smooth and weighted.
    pub balance: Balance,
    pub timeouts: Timeouts,
}

words! {
    /// How a pool chooses.
    pub enum Balance as "a way to balance that this version has" {
        RoundRobin = "round-robin",
    }
}

/// One endpoint as it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSettings {
    pub address: Spanned<Address>,
    /// Name in logs and metrics.
    pub name: Option<String>,
    /// Share of the requests relative to the others, 0 to 1000; 0 takes none.
    pub weight: u32,
}

/// 0 takes no requests.
type Weight = Whole<0, 1000>;

impl Decode for EndpointSettings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        if matches!(item.value, Value::String(_)) {
            let address = Spanned::decode(item, reader)?;
            return check_port(Self { address, name: None, weight: 1 }, reader);
        }
        let mut fields = Fields::of(item, "an endpoint as an address or", reader)?;
        let address = fields.required("address", reader);
        let name = fields.optional("name", reader);
        let weight = fields.or("weight", Whole(1) as Weight, reader);
        fields.finish(reader)?;
        let (address, name, weight) = (address?, name?, weight?);
        check_port(Self { address, name: name.map(|name: LabelText| name.0), weight: weight.0 }, reader)
    }
}

fn check_port(endpoint: EndpointSettings, reader: &mut Reader<'_>) -> Option<EndpointSettings> {
    let port = match &endpoint.address.value {
        Address::Tcp(address) => address.port(),
        Address::Name(_, port) => *port,
        Address::Unix(_) => return Some(endpoint),
    };
    if port == 0 {
        reader.error(endpoint.address.place, "nothing answers on port 0").help("write the port that the endpoint listens on");
        return None;
    }
    Some(endpoint)
}

impl EndpointSettings {
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.value.to_string())
    }
}

impl Settings {
    /// The pool that a bare address stands for.
    pub fn of_address(address: Spanned<Address>) -> Self {
        Self {
            endpoints: vec![EndpointSettings { address, name: None, weight: 1 }],
            balance: Balance::RoundRobin,
            timeouts: Timeouts::default(),
        }
    }
}

impl Decode for Settings {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = Fields::of(item, "a pool", reader)?;
        let endpoints = fields.required::<Spanned<Vec<EndpointSettings>>>("endpoints", reader);
        let balance = fields.or("balance", Balance::RoundRobin, reader);
        let timeouts = fields.or("timeouts", Timeouts::default(), reader);
        let unknown = fields.finish(reader);
        let endpoints = endpoints?;
        let clean = check_endpoints(&endpoints, reader);
        unknown.and(clean)?;
        Some(Self { endpoints: endpoints.value, balance: balance?, timeouts: timeouts? })
    }
}

fn check_endpoints(endpoints: &Spanned<Vec<EndpointSettings>>, reader: &mut Reader<'_>) -> Option<()> {
    let mut clean = Some(());
    if endpoints.value.is_empty() {
        reader.error(endpoints.place, "a pool needs an endpoint").help("write endpoints = [\"10.0.0.1:8080\"]");
        clean = None;
    } else if endpoints.value.iter().all(|endpoint| endpoint.weight == 0) {
        reader.warn(endpoints.place, "every endpoint has weight 0, so every request is refused with 503");
    }
    for (index, endpoint) in endpoints.value.iter().enumerate() {
        let twin = endpoints.value[..index].iter().find(|earlier| earlier.label() == endpoint.label());
        if let Some(twin) = twin {
            reader
                .error(endpoint.address.place, format!("endpoint `{}` is there twice", endpoint.label()))
                .related(twin.address.place, "the first one")
                .help("give one of them more weight, or another name");
            clean = None;
        }
    }
    clean
}
