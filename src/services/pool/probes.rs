//! What `health` and `leader` say, against the endpoints that they are asked of.
//!
//! Asks nobody: what a probe finds is no matter of the configuration.

use super::{EndpointSettings, Transport};
use crate::upstream::discover::Source;
use crate::upstream::health::{self, Probe};
use crate::upstream::{SendProxy, leader};
use crate::value::{Address, Diagnostics, Spanned};

pub(super) fn check(
    endpoints: &[EndpointSettings],
    discover: &[Source],
    health: Option<&Spanned<health::Settings>>,
    leader: Option<&Spanned<leader::Settings>>,
    send_proxy: SendProxy,
    found: &mut Diagnostics,
) -> Option<()> {
    let before = found.errors();
    let ports = [health.and_then(|health| health.port.map(|_| health.place)), leader.and_then(|leader| leader.port.map(|_| leader.place))];
    for place in ports.into_iter().flatten() {
        if let Some(unix) = endpoints.iter().find(|endpoint| matches!(endpoint.address.address, Address::Unix(_))) {
            found
                .error(place, format!("`port` cannot be had of `{}`, which is a unix socket", unix.address.value))
                .related(unix.address.place, "the endpoint")
                .help("remove `port`, or give that endpoint a pool of its own");
        }
    }
    if let Some(health) = health {
        check_health(endpoints, discover, health, send_proxy, found);
        if let (true, Some(leader)) = (health.fail_open, leader) {
            found
                .error(health.place, "`fail_open` where one endpoint leads: what is meant for the leader would go to others")
                .related(leader.place, "one leads")
                .help("remove one of the two");
        }
    }
    (found.errors() == before).then_some(())
}

fn check_health(
    endpoints: &[EndpointSettings],
    discover: &[Source],
    health: &Spanned<health::Settings>,
    send_proxy: SendProxy,
    found: &mut Diagnostics,
) {
    let is_plain = |endpoint: &&EndpointSettings| endpoint.transport == Transport::Plain;
    match &health.probe {
        Probe::Tls => {
            if let Some(plain) = endpoints.iter().find(is_plain) {
                found
                    .error(health.place, format!("`{}` is not spoken to with TLS, so there is no handshake to try", plain.address.value))
                    .related(plain.address.place, "the endpoint")
                    .help("write tcp = true, or give the pool `tls`");
            } else if let Some(plain) = discover.iter().find(|source| source.tls.is_none()) {
                found
                    .error(health.place, format!("what `{plain}` finds is not spoken to with TLS, so there is no handshake to try"))
                    .help("write tcp = true, or give the pool `tls`");
            }
        }
        // These handshakes happen inside the protocol, and a library does them.
        Probe::Mysql(Some(_)) => {
            if let Some(tls) = endpoints.iter().find(|endpoint| !is_plain(endpoint)) {
                found
                    .error(health.place, "a login to MySQL cannot be tried inside TLS")
                    .related(tls.address.place, "an endpoint with TLS")
                    .help("write mysql = true");
            } else if discover.iter().any(|source| source.tls.is_some()) {
                found.error(health.place, "a login to MySQL cannot be tried inside TLS").help("write mysql = true");
            }
            if send_proxy != SendProxy::Off {
                found.error(health.place, "a login to MySQL cannot be tried behind a PROXY header").help("write mysql = true");
            }
        }
        Probe::Http(_) | Probe::Tcp | Probe::Grpc(_) | Probe::Redis(_) | Probe::Memcached | Probe::Mysql(None) | Probe::Postgres(_) => {}
    }
}
