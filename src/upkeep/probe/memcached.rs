//! `version`, which memcached answers without looking at what it keeps.
//!
//! The text protocol only, which any memcached understands unless it insists on SASL.

use super::line::{Line, Talk};
use crate::upstream::health::Reason;

pub(in crate::upkeep) async fn version(line: &Line<'_>) -> Result<(), Reason> {
    let mut talk = Talk::new(line.open(Some(&[])).await?);
    line.in_time(async {
        talk.say(b"version\r\n").await?;
        let answer = talk.line().await?;
        if !answer.starts_with("VERSION ") {
            return Err(Reason::new(format!("answered `{answer}`")));
        }
        talk.say(b"quit\r\n").await
    })
    .await
}
