//! Waits for the first bytes of a client that speaks TLS with an endpoint, to learn the name it asks for.
//!
//! What was read stays in the buffer: the endpoint gets it as it came.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::accept::in_time;
use super::super::buffer::{Buffer, SMALL};
use super::super::timer::Timer;
use super::super::worker::Worker;
use super::relay::poll_fill;
use crate::dial::Wire;
use crate::refusal::Refusal;
use crate::tls::{Greeted, Hello};

/// The name, if there is one in the first 16 KiB. Who says too little for too long is refused: nobody knows where it wants
/// to go.
pub async fn read(
    worker: &Rc<Worker>,
    client: &mut Wire,
    first: &mut Buffer,
    timer: &mut Timer,
    timeout: Duration,
) -> Result<Option<String>, Refusal> {
    let deadline = Instant::now() + timeout;
    let mut hello = Hello::default();
    loop {
        let fill = poll_fn(|cx| poll_fill(cx, client, first, SMALL));
        match in_time(worker, timer, deadline, fill).await {
            None => return Err(Refusal::HeaderTimeout),
            Some(Err(_)) => return Err(Refusal::Incomplete),
            // It will say no more, and may still want to hear something.
            Some(Ok(0)) => return Ok(None),
            Some(Ok(_)) => {}
        }
        match hello.read(first.filled()) {
            Greeted::Asked(name) => return Ok(name),
            Greeted::Partial if first.filled().len() >= SMALL => return Ok(None),
            // Bytes that keep coming must not put the deadline off.
            Greeted::Partial if Instant::now() >= deadline => return Err(Refusal::HeaderTimeout),
            Greeted::Partial => {}
        }
    }
}
