//! A ramp as it is written.
//!
//! Checks what can be seen in one table; whether its arm has a place to grow into, the split says.

use std::time::Duration;

use crate::services::shard::migrate::Moment;
use crate::value::{Decode, Item, LabelText, Reader, Share, Spanned, Url, Whole};
use crate::{settings, words};

settings! {
    /// How an arm grows.
    pub struct Settings as "a ramp" {
        /// The arm. Its share in `arms` does not count then.
        arm: Spanned<LabelText>,
        /// Its shares, each larger than the one before.
        steps: Spanned<Vec<Spanned<Share>>>,
        /// How long each of them lasts, at least.
        every: Duration,
        /// When the first step begins. Default: when the ramp is first seen.
        start: Option<Moment> = None,
        /// What ends the ramp.
        abort: Option<Abort> = None,
        /// What becomes of the arm then.
        on_abort: OnAbort = OnAbort::Zero,
        /// Told of steps and of the end, by a POST.
        notify: Option<Spanned<Hook>> = None,
    }
}

settings! {
    /// What an arm must not do.
    pub struct Abort as "what ends a ramp" {
        /// More errors than this, and more than the control arm.
        errors_over: Option<Spanned<Share>> = None,
        /// Slower than this, and slower than the control arm.
        p99_over: Option<Spanned<Slower>> = None,
        /// Requests of the arm without which nothing is judged.
        min_requests: Whole<1, 1_000_000> = Whole(500),
        /// How long each of the two looks that it takes lasts, at least. Default: `every`, and no more than a minute.
        window: Option<Duration> = None,
    }
}

words! {
    /// What becomes of an arm whose ramp was ended.
    pub enum OnAbort as "what becomes of an arm" {
        /// It gets nothing any more.
        Zero = "zero",
        /// It keeps what it has.
        Hold = "hold",
    }
}

/// More steps would be a mistake.
const STEPS_MAX: usize = 100;
const WINDOW: Duration = Duration::from_secs(60);

impl Settings {
    /// Whether the steps are in order.
    pub(in crate::services::split) fn check(&self, reader: &mut Reader<'_>) -> Option<()> {
        let steps = &self.steps.value;
        if steps.is_empty() || steps.len() > STEPS_MAX {
            reader
                .error(self.steps.place, format!("a ramp has 1 to {STEPS_MAX} steps, this has {}", steps.len()))
                .help("write steps = [\"1%\", \"10%\", \"50%\"]");
            return None;
        }
        if let Some(zero) = steps.iter().find(|step| step.value.millionths() == 0) {
            reader.error(zero.place, "a step of nothing is none").help("remove it");
            return None;
        }
        if let Some(pair) = steps.windows(2).find(|pair| pair[0].value >= pair[1].value) {
            reader
                .error(pair[1].place, format!("{} comes after {}, so it would send users back", pair[1].value, pair[0].value))
                .help("write larger and larger steps");
            return None;
        }
        match &self.abort {
            Some(Abort { errors_over: None, p99_over: None, .. }) => {
                reader
                    .error(self.arm.place, "`abort` says nothing that would end the ramp")
                    .help("write abort = { errors_over = \"2%\" }, or p99_over = \"1.5x\"");
                None
            }
            _ => Some(()),
        }
    }

    pub fn window(&self) -> Duration {
        let usual = self.every.min(WINDOW);
        self.abort.as_ref().and_then(|abort| abort.window).unwrap_or(usual)
    }

    /// Millionths.
    pub fn step(&self, number: usize) -> u32 {
        self.steps.value.get(number).or(self.steps.value.last()).map_or(0, |step| step.value.millionths())
    }
}

/// How slow is too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slower {
    /// So many thousandths of the control arm's time.
    Times(u32),
    Than(Duration),
}

impl Decode for Slower {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        if let Some(number) = text.strip_suffix('x') {
            let factor = number.parse::<f64>().ok().filter(|factor| (1.0..=1000.0).contains(factor));
            let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            if let (Some(factor), true) = (factor, digits) {
                return Some(Self::Times((factor * 1000.0).round() as u32));
            }
            reader.error(item.place, format!("`{text}` is not a factor from 1 to 1000")).help("write \"1.5x\"");
            return None;
        }
        if crate::value::parse_duration(&text).is_none() {
            reader
                .error(item.place, format!("`{text}` is neither a factor nor a duration"))
                .help("write \"1.5x\" for half as slow again as the control arm, or a time such as \"500ms\"");
            return None;
        }
        Duration::decode(item, reader).map(Self::Than)
    }
}

/// Whom a ramp tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook(pub Url);

impl Decode for Hook {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let url = Url::parse(&text);
        if url.is_none() {
            // Not what it is: it may come from the environment, and hold a password.
            reader
                .error(item.place, "this is not a URL that can be posted to; a URL has no login")
                .help("write \"http://hooks.example/ramps\", or https://");
        }
        url.map(Self)
    }
}
