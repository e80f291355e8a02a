//! The smallest path through real bytes.

use crate::support::{Client, Origin, Rig};

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
