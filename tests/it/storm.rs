//! The reload storm, and the end of the process under the same load: nothing fails, nothing is cut
//! short, nothing is answered by a generation that does not serve.
//!
//! Bounded in `make test`; `ATTACHE_SOAK_SECONDS` makes it as long as one likes.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tempfile::TempDir;

use crate::support::{
    Answer, Client, Lateness, Next, Origin, PATIENCE, Pair, Read1, Rig, alone, eventually, free_address, trusting_config,
};

/// How long the storm lasts if nobody says otherwise.
const STORM: Duration = Duration::from_secs(10);
/// Reloads that it must have seen by then.
const RELOADS_MIN: u64 = 100;
/// Reloads come no faster than this.
const RELOAD_EVERY: Duration = Duration::from_millis(70);
/// Requests on one kept connection.
const KEPT_FOR: usize = 40;

/// What stands where, as a function of the round, so that any answer can be judged.
struct Scene {
    /// Plain, answered by attache.
    web: SocketAddr,
    /// Plain, forwarded to the origin.
    app: SocketAddr,
    /// TLS, with certificates that change.
    secure: SocketAddr,
    /// Two listeners that change places.
    here: SocketAddr,
    there: SocketAddr,
    /// Comes and goes.
    extra: SocketAddr,
    /// Plain, TLS, plain…
    turn: SocketAddr,
    origin: SocketAddr,
}

impl Scene {
    fn new() -> Self {
        let [web, app, secure, here, there, extra, turn] = std::array::from_fn(|_| free_address());
        Self { web, app, secure, here, there, extra, turn, origin: origin() }
    }

    fn has_extra(round: u64) -> bool {
        (round / 6).is_multiple_of(2)
    }

    fn turn_is_tls(round: u64) -> bool {
        !(round / 10).is_multiple_of(2)
    }

    fn is_broken(round: u64) -> bool {
        round % 5 == 4
    }

    /// Name of the listener at an address.
    fn name(&self, address: SocketAddr, round: u64) -> &'static str {
        let is_swapped = !round.is_multiple_of(2);
        match address {
            a if a == self.web => "web",
            a if a == self.app => "app",
            a if a == self.secure => "secure",
            a if a == self.extra => "extra",
            a if a == self.turn => "turn",
            a if (a == self.here) != is_swapped => "left",
            _ => "right",
        }
    }

    fn config(&self, round: u64) -> String {
        let mut text = String::new();
        let mut listener = |address: SocketAddr, is_tls: bool| {
            let name = self.name(address, round);
            let tls = if is_tls { "tls = { cert = \"{dir}/site.crt\", key = \"{dir}/site.key\" }\n" } else { "" };
            let service = if name == "app" {
                format!("service = \"{}\"", self.origin)
            } else {
                format!("respond = {{ body = \"{}\" }}", "x".repeat(300))
            };
            // Some routes before the one that matches, different each time.
            let _ = write!(
                text,
                "[[listener]]\nname = \"{name}\"\nlisten = \"{address}\"\n{tls}\
                 [[listener.route]]\npath = \"/never/{round}/*\"\nrespond = {{ status = 500 }}\n\
                 [[listener.route]]\npath = \"/*\"\n{service}\nresponse_headers = {{ set = {{ x-round = \"{round}\", x-listener = \"{name}\" }} }}\n"
            );
        };
        for address in [self.web, self.app, self.here, self.there] {
            listener(address, false);
        }
        listener(self.secure, true);
        listener(self.turn, Self::turn_is_tls(round));
        if Self::has_extra(round) {
            listener(self.extra, false);
        }
        if Self::is_broken(round) {
            text.push_str("[service.broken]\nendpoints = []\n");
        }
        text
    }
}

/// Answers everything with 300 bytes. Keeps no record, unlike the scripted one.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n{}", "x".repeat(300));
                let (mut buffer, mut filled) = ([0; 4096], 0);
                while let Ok(count @ 1..) = stream.read(&mut buffer[filled..]) {
                    filled += count;
                    if buffer[..filled].ends_with(b"\r\n\r\n") {
                        filled = 0;
                        if stream.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// What the clients and the one who reloads know of each other.
struct Storm {
    scene: Scene,
    /// The last round that was reloaded to the end; whatever is asked from now on is answered by it or later.
    floor: AtomicU64,
    /// The last round that has begun.
    ceiling: AtomicU64,
    is_over: AtomicBool,
    /// The process was told to end: connects may fail, and a client that fails to connect stops.
    is_ending: AtomicBool,
    /// Held while a port changes its transport: the one thing a client has to know.
    turning: RwLock<()>,
    answers: AtomicUsize,
    refused: AtomicUsize,
    last_answer: Mutex<Option<Instant>>,
    failures: Mutex<Vec<String>>,
}

#[derive(Clone)]
enum Kind {
    Plain,
    Tls(Arc<ClientConfig>),
    /// As the round has it.
    Turning(Arc<ClientConfig>),
}

impl Storm {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            scene: Scene::new(),
            floor: AtomicU64::new(0),
            ceiling: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            turning: RwLock::new(()),
            answers: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            last_answer: Mutex::new(None),
            failures: Mutex::default(),
        })
    }

    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }

    /// Asks at `address` until the storm is over, `uses` times on each connection.
    fn client(self: &Arc<Self>, address: SocketAddr, kind: Kind, uses: usize) -> JoinHandle<()> {
        let storm = Arc::clone(self);
        std::thread::spawn(move || {
            while !storm.is_over.load(SeqCst) {
                if !storm.connection(address, &kind, uses) {
                    return;
                }
            }
        })
    }

    /// `false` when there is no sense in going on.
    fn connection(&self, address: SocketAddr, kind: &Kind, uses: usize) -> bool {
        let mut floor = self.floor.load(SeqCst);
        let mut turning = matches!(kind, Kind::Turning(_)).then(|| self.turning.read().unwrap());
        let connected = match kind {
            Kind::Plain => Client::tcp(address),
            Kind::Turning(_) if !Scene::turn_is_tls(self.floor.load(SeqCst)) => Client::tcp(address),
            Kind::Tls(config) | Kind::Turning(config) => Client::tls_with(address, "a.example", Arc::clone(config)),
        };
        let mut client = match connected {
            Ok(client) => client,
            Err(error) => return self.not_connected(address, &error, floor),
        };
        for use_of in 0..uses {
            let asked = self.floor.load(SeqCst);
            let read = client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").and_then(|()| client.read("GET"));
            let ceiling = self.ceiling.load(SeqCst);
            let answer = match read {
                Ok(Read1::Answer(answer)) => answer,
                other => {
                    self.fail(format!(
                        "{address} ({}), use {use_of}, rounds {asked} to {ceiling}: {other:?}",
                        self.scene.name(address, asked)
                    ));
                    return true;
                }
            };
            // Before it is judged, so that the end is not blamed on us.
            *self.last_answer.lock().unwrap() = Some(Instant::now());
            self.answers.fetch_add(1, SeqCst);
            let is_last = answer.header("connection") == Some("close");
            // The last answer may come from who stood there when the connection was last used.
            if let Err(why) = self.judge(address, &answer, if is_last { floor } else { asked }, ceiling) {
                self.fail(format!("{address}, use {use_of}, rounds {asked} to {ceiling}: {why}\n{}", answer.head));
            }
            if is_last || self.is_over.load(SeqCst) {
                return true;
            }
            floor = asked;
            // From here on the transport may change: the connection gets one more answer.
            drop(turning.take());
        }
        true
    }

    fn not_connected(&self, address: SocketAddr, error: &io::Error, floor: u64) -> bool {
        let ceiling = self.ceiling.load(SeqCst);
        // Only the connect itself may fail: a handshake that is cut short is a connection that was lost.
        let is_refusal = matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut);
        if self.is_ending.load(SeqCst) && is_refusal {
            return false;
        }
        let was_away = (floor..=ceiling).any(|round| !Scene::has_extra(round));
        if address == self.scene.extra && was_away && is_refusal {
            self.refused.fetch_add(1, SeqCst);
            std::thread::sleep(Duration::from_millis(5));
        } else {
            self.fail(format!("{address}: cannot connect in rounds {floor} to {ceiling}: {error}"));
        }
        true
    }

    fn judge(&self, address: SocketAddr, answer: &Answer, floor: u64, ceiling: u64) -> Result<(), String> {
        if answer.status != 200 || answer.body.len() != 300 {
            return Err(format!("status {} with {} bytes", answer.status, answer.body.len()));
        }
        let round: u64 = answer.header("x-round").and_then(|round| round.parse().ok()).ok_or("no round")?;
        if round < floor || round > ceiling || Scene::is_broken(round) {
            return Err(format!("answered by round {round}"));
        }
        let name = self.scene.name(address, round);
        if answer.header("x-listener") != Some(name) {
            return Err(format!("answered by {:?}, not {name}", answer.header("x-listener")));
        }
        Ok(())
    }

    fn clients(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let tls = trusting_config(None);
        let scene = &self.scene;
        let mut clients = Vec::new();
        for address in [scene.web, scene.app, scene.here, scene.there, scene.extra] {
            clients.push(self.client(address, Kind::Plain, KEPT_FOR));
            clients.push(self.client(address, Kind::Plain, 1));
        }
        clients.push(self.client(scene.secure, Kind::Tls(Arc::clone(&tls)), KEPT_FOR));
        clients.push(self.client(scene.secure, Kind::Tls(Arc::clone(&tls)), KEPT_FOR));
        clients.push(self.client(scene.secure, Kind::Tls(Arc::clone(&tls)), 1));
        clients.push(self.client(scene.turn, Kind::Turning(tls), KEPT_FOR));
        clients
    }

    fn end(&self, clients: Vec<JoinHandle<()>>) {
        self.is_over.store(true, SeqCst);
        for client in clients {
            client.join().unwrap();
        }
        let failures = self.failures.lock().unwrap();
        assert!(
            failures.is_empty(),
            "{} of {} failed:\n{}",
            failures.len(),
            self.answers.load(SeqCst),
            failures[..failures.len().min(10)].join("\n")
        );
    }
}

fn pairs() -> Vec<Pair> {
    (0..8).map(|_| Pair::of(&["a.example"])).collect()
}

fn soak() -> Duration {
    std::env::var("ATTACHE_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).map_or(STORM, Duration::from_secs)
}

#[test]
fn a_storm_of_reloads_fails_no_request() {
    let _alone = alone();
    let storm = Storm::new();
    let pairs = pairs();
    let directory = TempDir::new().unwrap();
    pairs[0].write(directory.path(), "site");
    let rig = Rig::start_in(directory, &storm.scene.config(0));
    let clients = storm.clients();
    let began = Instant::now();
    let (mut round, mut refused) = (0, 0);
    while began.elapsed() < soak() || round < RELOADS_MIN {
        assert!(began.elapsed() < soak() + PATIENCE, "only {round} reloads in {:?}", began.elapsed());
        let due = Instant::now() + RELOAD_EVERY;
        round += 1;
        let turns = Scene::turn_is_tls(round) != Scene::turn_is_tls(round - 1)
            || Scene::turn_is_tls(round) != Scene::turn_is_tls(storm.floor.load(SeqCst));
        let turning = turns.then(|| storm.turning.write().unwrap());
        storm.ceiling.store(round, SeqCst);
        if round % 3 == 0 {
            pairs[(round / 3) as usize % pairs.len()].write(rig.directory.path(), "site");
        }
        let answer = rig.reload(&storm.scene.config(round));
        if Scene::is_broken(round) {
            assert_eq!(answer.status, 422, "{}", answer.text());
            refused += 1;
        } else {
            assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
            storm.floor.store(round, SeqCst);
        }
        drop(turning);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let took = began.elapsed();
    storm.end(clients);
    let answers = storm.answers.load(SeqCst);
    let rate = answers as f64 / took.as_secs_f64();
    println!(
        "{answers} answers in {took:.1?} ({rate:.0}/s) over {round} reloads, {refused} of them refused; 0 failed, 0 cut, 0 wrong; {} connects refused while a listener was away",
        storm.refused.load(SeqCst)
    );
    assert!(rate >= 1000.0, "{rate:.0} requests a second are no storm");
    assert_eq!(rig.metric("attache_panics_total").to_bits(), 0.0_f64.to_bits());
}

#[test]
fn sigterm_under_load_fails_no_request() {
    let _alone = alone();
    let lateness = Lateness::watch();
    let storm = Storm::new();
    let directory = TempDir::new().unwrap();
    pairs()[0].write(directory.path(), "site");
    let mut rig = Rig::start_in(directory, &storm.scene.config(0));
    let clients = storm.clients();
    eventually("the load is there", || storm.answers.load(SeqCst) > 5000);
    storm.is_ending.store(true, SeqCst);
    rig.signal("TERM");
    let ended = rig.ended();
    let at = Instant::now();
    assert_eq!(ended.code, Some(0), "{}", rig.log());
    storm.end(clients);
    let since = at.saturating_duration_since(storm.last_answer.lock().unwrap().unwrap());
    let late = lateness.end();
    println!("{} answers, 0 failed; ended {since:?} after the last answer, on a machine {late:?} late", storm.answers.load(SeqCst));
    assert!(since < Duration::from_secs(1) + late * 4, "it took {since:?} from the last answer to the end");
}

/// How many who were told "connected" lose their connection when a listener goes away under as many
/// fresh connections as this machine can make.
#[test]
fn a_listener_that_goes_away_under_fresh_connections_loses_none() {
    let _alone = alone();
    let (web, extra) = (free_address(), free_address());
    let saying = |name: &str, address: SocketAddr| {
        format!(
            "[[listener]]\nname = \"{name}\"\nlisten = \"{address}\"\n[[listener.route]]\npath = \"/*\"\nrespond = {{ body = \"{name}\" }}\n"
        )
    };
    let (with, without) = (format!("{}{}", saying("web", web), saying("extra", extra)), saying("web", web));
    let rig = Rig::start(&with);
    let is_over = Arc::new(AtomicBool::new(false));
    let (answered, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (is_over, answered, lost) = (Arc::clone(&is_over), Arc::clone(&answered), Arc::clone(&lost));
            std::thread::spawn(move || {
                while !is_over.load(SeqCst) {
                    // Not the second that the kernel waits before it tries again.
                    let Ok(mut stream) = TcpStream::connect_timeout(&extra, Duration::from_millis(20)) else { continue };
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut answer = Vec::new();
                    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    match asked.and_then(|()| stream.read_to_end(&mut answer)) {
                        Ok(_) if answer.ends_with(b"extra") => drop(answered.fetch_add(1, SeqCst)),
                        other => lost.lock().unwrap().push(format!("{other:?} after {:?}", String::from_utf8_lossy(&answer))),
                    }
                }
            })
        })
        .collect();
    let began = Instant::now();
    for _ in 0..8 {
        let before = answered.load(SeqCst);
        eventually("clients are served", || answered.load(SeqCst) > before + 200);
        rig.reloaded(&without);
        rig.reloaded(&with);
    }
    let took = began.elapsed();
    is_over.store(true, SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    let (answered, lost) = (answered.load(SeqCst), lost.lock().unwrap());
    println!("{answered} fresh connections in {took:.1?}, 8 removals, {} lost", lost.len());
    assert!(lost.is_empty(), "{} of {answered} lost: {:?}", lost.len(), &lost[..lost.len().min(5)]);
}

/// A listener before an origin that answers when told.
fn holding(process: &str) -> (Rig, Arc<Origin>, Arc<AtomicBool>) {
    let go = Arc::new(AtomicBool::new(false));
    let when = Arc::clone(&go);
    let origin = Origin::run(move |stream, _, _| {
        while !when.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").is_ok() { Next::Keep } else { Next::Close }
    });
    let rig = Rig::start(&format!(
        "[process]\nworkers = 2\n{process}\n[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n",
        origin.address
    ));
    (rig, Arc::new(origin), go)
}

fn ask(rig: &Rig, count: usize) -> Vec<Client> {
    let address = rig.address("web");
    let ask = |_| {
        let mut client = Client::tcp(address).unwrap();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client
    };
    (0..count).map(ask).collect()
}

#[test]
fn what_is_in_flight_at_sigterm_is_answered() {
    let lateness = Lateness::watch();
    let (mut rig, origin, go) = holding("drain = \"20s\"");
    let mut clients = ask(&rig, 40);
    eventually("all are at the origin", || origin.seen().len() == 40);
    rig.signal("TERM");
    eventually("it is unready", || rig.admin("GET", "/readyz").status == 503);
    assert!(rig.is_running());
    go.store(true, SeqCst);
    for client in &mut clients {
        let Read1::Answer(answer) = client.read("GET").unwrap() else { panic!("no answer") };
        assert_eq!((answer.text().as_str(), answer.header("connection")), ("done", Some("close")));
    }
    let last = Instant::now();
    assert_eq!(rig.ended().code, Some(0));
    // Our clients do not close: the process does not wait long for them.
    let took = last.elapsed();
    assert!(took < Duration::from_secs(1) + lateness.end() * 4, "{took:?}");
}

#[test]
fn the_drain_deadline_cuts_off_and_says_so() {
    let (mut rig, origin, _go) = holding("drain = \"300ms\"");
    let mut clients = ask(&rig, 1);
    eventually("it is at the origin", || origin.seen().len() == 1);
    rig.signal("TERM");
    assert_eq!(rig.ended().code, Some(3), "{}", rig.log());
    assert!(clients[0].is_closed());
}

#[test]
fn a_second_signal_ends_at_once() {
    let lateness = Lateness::watch();
    let (mut rig, origin, _go) = holding("drain = \"60s\"");
    let _clients = ask(&rig, 1);
    eventually("it is at the origin", || origin.seen().len() == 1);
    rig.signal("TERM");
    eventually("it is unready", || rig.admin("GET", "/readyz").status == 503);
    rig.signal("TERM");
    let told = Instant::now();
    assert_eq!(rig.ended().code, Some(3));
    let took = told.elapsed();
    assert!(took < Duration::from_secs(1) + lateness.end() * 4, "{took:?}");
}

#[test]
fn a_second_signal_cuts_off_no_one_who_asked_nothing() {
    let (mut rig, origin, go) = holding("lame_duck = \"60s\"");
    go.store(true, SeqCst);
    let mut idle = ask(&rig, 1);
    assert!(matches!(idle[0].read("GET"), Ok(Read1::Answer(_))));
    assert_eq!(origin.seen().len(), 1);
    rig.signal("TERM");
    eventually("it is unready", || rig.admin("GET", "/readyz").status == 503);
    rig.signal("TERM");
    assert_eq!(rig.ended().code, Some(0));
}

#[test]
fn an_idle_process_ends_at_once() {
    let lateness = Lateness::watch();
    let (mut rig, _origin, _go) = holding("");
    rig.signal("TERM");
    let told = Instant::now();
    assert_eq!(rig.ended().code, Some(0));
    let took = told.elapsed();
    println!("ended {took:?} after SIGTERM");
    assert!(took < Duration::from_millis(600) + lateness.end() * 4, "{took:?}");
}

#[test]
fn a_lame_duck_serves_while_it_is_unready() {
    let (mut rig, _origin, go) = holding("lame_duck = \"1s\"");
    go.store(true, SeqCst);
    let address = rig.address("web");
    rig.signal("INT");
    eventually("it is unready", || rig.admin("GET", "/readyz").status == 503);
    let answer = Client::tcp(address).unwrap().ask("GET", "/").unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    assert_eq!(rig.ended().code, Some(0));
}

#[test]
fn a_drain_by_the_admin_api_waits_for_a_signal() {
    let (mut rig, _origin, go) = holding("");
    go.store(true, SeqCst);
    let address = rig.address("web");
    assert_eq!(rig.admin("POST", "/drain").status, 202);
    eventually("nobody listens any more", || TcpStream::connect(address).is_err());
    assert!(rig.is_running());
    assert_eq!(rig.admin("GET", "/readyz").status, 503);
    assert_eq!(rig.admin("POST", "/reload").status, 503);
    rig.signal("TERM");
    assert_eq!(rig.ended().code, Some(0));
}
