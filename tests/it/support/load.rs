//! A steady load: so many requests a second, whether or not earlier ones are answered.
//!
//! Judges nothing but whether an answer is a 200; who answered, its body says.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Client, PATIENCE};

/// Kept connections, each with a request at a time: as many requests as may be unanswered at once.
const CONNECTIONS: usize = 200;
/// After a moment in which the machine did nothing, no more than this is made up for at once.
const BURST: Duration = Duration::from_millis(100);
const STACK: usize = 256 << 10;

type Connect = Box<dyn Fn() -> io::Result<Client> + Send + Sync>;

pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    connect: Connect,
    interval: Duration,
    count: usize,
    /// How many have been asked for, and when the next one is due.
    schedule: Mutex<(usize, Instant)>,
    answered: AtomicUsize,
    report: Mutex<Report>,
}

#[derive(Default)]
pub struct Report {
    /// How many answers each body was.
    pub answers: BTreeMap<String, usize>,
    pub failures: Vec<String>,
    /// From the moment when it was sent.
    pub slowest: Duration,
    pub took: Duration,
}

impl Load {
    /// `count` requests, `rate` of them a second.
    pub fn start(rate: u32, count: usize, connect: impl Fn() -> io::Result<Client> + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            connect: Box::new(connect),
            interval: Duration::from_secs(1) / rate,
            count,
            schedule: Mutex::new((0, Instant::now())),
            answered: AtomicUsize::new(0),
            report: Mutex::default(),
        });
        let client = |_| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().stack_size(STACK).spawn(move || shared.client()).unwrap()
        };
        let clients = (0..CONNECTIONS.min(count)).map(client).collect();
        Self { shared, clients }
    }

    /// Waits until so many have been answered, well or not.
    #[track_caller]
    pub fn reaches(&self, answered: usize) {
        let limit = self.shared.interval * self.shared.count as u32 + PATIENCE;
        let deadline = Instant::now() + limit;
        while self.shared.answered.load(SeqCst) < answered {
            assert!(Instant::now() < deadline, "not {answered} answers within {limit:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the last answer.
    pub fn end(self) -> Report {
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        std::mem::take(&mut self.shared.report.lock().unwrap())
    }
}

impl Shared {
    /// When the next request is due. `None` after the last.
    fn next(&self) -> Option<Instant> {
        let mut schedule = self.schedule.lock().unwrap();
        let (asked, due) = *schedule;
        if asked == self.count {
            return None;
        }
        let due = Instant::now().checked_sub(BURST).map_or(due, |earliest| due.max(earliest));
        *schedule = (asked + 1, due + self.interval);
        Some(due)
    }

    fn client(&self) {
        let began = Instant::now();
        let mut own = Report::default();
        let mut kept = None;
        while let Some(due) = self.next() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            let answer = match kept.take() {
                Some(client) => Ok(client),
                None => (self.connect)(),
            }
            .and_then(|mut client| client.request("GET", "/").map(|answer| (client, answer)));
            own.slowest = own.slowest.max(sent.elapsed());
            match answer {
                Ok((client, answer)) if answer.status == 200 => {
                    *own.answers.entry(answer.text()).or_default() += 1;
                    kept = (answer.header("connection") != Some("close")).then_some(client);
                }
                Ok((_, answer)) => own.failures.push(answer.head),
                Err(error) => own.failures.push(error.to_string()),
            }
            self.answered.fetch_add(1, SeqCst);
        }
        own.took = began.elapsed();
        self.report.lock().unwrap().add(own);
    }
}

impl Report {
    fn add(&mut self, other: Self) {
        for (body, count) in other.answers {
            *self.answers.entry(body).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.slowest = self.slowest.max(other.slowest);
        self.took = self.took.max(other.took);
    }

    pub fn answered(&self) -> usize {
        self.answers.values().sum()
    }

    /// Some of the failures, for people.
    pub fn few_failures(&self) -> String {
        self.failures[..self.failures.len().min(5)].join("\n")
    }
}
