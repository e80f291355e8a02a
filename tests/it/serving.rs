//! The smallest path through real bytes.

use crate::support::{Authority, Client, Origin, Pair, Rig, trusting_config};

#[test]
fn a_request_goes_to_the_endpoint_and_its_answer_comes_back() {
    let origin = Origin::ok("hello");
    let rig = Rig::start(&format!("[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\nservice = \"{}\"\n", origin.address));
    let answer = rig.connect("web").ask("GET", "/a?b=c").unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()));
    assert_eq!(origin.seen()[0].line(), "GET /a?b=c HTTP/1.1");
}

#[test]
fn https_stands_before_a_plain_program() {
    let origin = Origin::ok("hello");
    let rig = Rig::start(&format!(
        "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\ntls = {{ self_signed = [\"localhost\"] }}\nservice = \"{}\"\n",
        origin.address
    ));
    let answer = Client::tls(rig.address("web"), "localhost").unwrap().ask("GET", "/").unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello".to_owned()));
    assert_eq!(origin.seen()[0].header("x-forwarded-proto"), Some("https"));
}

#[test]
fn only_clients_with_a_certificate_of_the_authority_get_in() {
    let authority = Authority::new("the authority");
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("ca.crt"), &authority.cert).unwrap();
    authority.sign("server", &["localhost"]).write(directory.path(), "server");
    let origin = Origin::ok("hello");
    let rig = Rig::start_in(
        directory,
        &format!(
            "[[listener]]\nname = \"web\"\nlisten = \"127.0.0.1:0\"\n\
             tls = {{ cert = \"server.crt\", key = \"server.key\", client_ca = \"ca.crt\" }}\n\
             [[listener.route]]\nservice = \"{}\"\nrequest_headers = {{ set = {{ x-subject = \"{{tls.client.subject}}\" }} }}\n",
            origin.address
        ),
    );
    let ask = |identity: Option<&Pair>| {
        let config = trusting_config(identity);
        Client::tls_with(rig.address("web"), "localhost", config).and_then(|client| client.ask("GET", "/"))
    };
    assert_eq!(ask(Some(&authority.sign("alice", &["alice.example"]))).unwrap().status, 200);
    assert!(origin.seen()[0].header("x-subject").unwrap().contains("CN=alice"), "{:?}", origin.seen()[0].head);
    assert!(ask(None).is_err(), "no certificate");
    assert!(ask(Some(&Authority::new("another").sign("eve", &["eve.example"]))).is_err(), "another authority's");
    assert_eq!(origin.seen().len(), 1);
}
