//! From a 101 to what follows it: whether it may be believed, and what the exchange comes to.
//!
//! Moves no bytes; `tunnel` does.

use std::sync::Arc;
use std::time::Instant;

use super::compose;
use super::exchange::{After, Ending, Outcome};
use super::forward::Job;
use super::side::{Far, Side};
use super::tunnel;
use crate::proto::http1::{response_framing, upgrade};
use crate::route::HeadLookup;
use crate::upstream::{Endpoint, Pool};

impl<S: Side> Job<'_, S> {
    /// RFC 9110 §15.2.2: a 101 is an answer to who asked for it, and for that.
    pub fn is_granted<E: Far>(&self, link: &E) -> bool {
        let is_whole = response_framing(self.response, link.input(), false).is_ok_and(|framing| framing.keep_alive);
        is_whole && self.call.upgrade.is_some_and(|wanted| E::SWITCHES && upgrade::is_granted(&self.response.fields, link.input(), wanted))
    }

    /// Lets client and endpoint speak whatever they agreed on, for as long as they do.
    pub async fn switch<E: Far>(&mut self, link: &mut E, pool: &Pool, endpoint: &Arc<Endpoint>, attempts: u32) -> Outcome {
        let lookup = HeadLookup { head: self.call.head, route: &self.call.route.name };
        compose::switching(
            self.response,
            link.input(),
            &self.call.route.response_edits,
            &lookup,
            &[&self.told.to_client, &self.cookie],
            self.client.link.output(),
        );
        link.consume(self.response.bytes);
        let timeouts = tunnel::Timeouts { idle: pool.policy.timeouts.idle, write: self.call.listener.timeouts.write };
        let tunnel = tunnel::run(self.call.worker, self.client, link, &timeouts).await;
        Outcome {
            status: 101,
            body_in: tunnel.up,
            body_out: tunnel.down,
            refusal: None,
            ending: tunnel.ending,
            after: if tunnel.ending == Ending::Complete { After::Part } else { After::Abort },
            ended: Instant::now(),
            endpoint: Some(Arc::clone(endpoint)),
            attempts,
            goes_on: false,
            leaves: None,
        }
    }
}
