//! What is found, what is not, and that scrubbing twice changes nothing.

use super::Kind;
use super::find::{Finder, Found};

const ALL: u16 = (1 << Kind::COUNT) - 1;

fn find(text: &str, wanted: u16) -> Vec<Found> {
    let mut out = Vec::new();
    Finder::new(&["build-agent-7".to_owned()]).find(text, wanted, &mut Vec::new(), &mut out);
    out
}

/// The text with each finding as `<kind>`.
pub(super) fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut done = 0;
    for f in find(text, ALL) {
        out += &text[done..f.start];
        out += &format!("<{}>", f.kind.as_str());
        done = f.end;
    }
    out + &text[done..]
}

#[test]
fn every_kind_is_found() {
    for (text, expected) in [
        // e-mail
        ("mail Bob.O'Hara+x@mail.contoso.co.uk.", "mail <email>."),
        ("<bob@contoso.com>", "<<email>>"),
        ("q=bob%40contoso.com&x", "q=<email>&x"),
        ("jürgen@müller.de", "<email>"),
        // cards
        ("paid 4111 1111 1111 1111 today", "paid <card> today"),
        ("4111-1111-1111-1111", "<card>"),
        ("amex 378282246310005,", "amex <card>,"),
        ("card:5555555555554444", "card:<card>"),
        ("3782 822463 10005", "<card>"),
        // users in paths
        (r"C:\Users\bob\file.txt", r"C:\Users\<user>\file.txt"),
        (r"C:\\Users\\Bob Smith\\x", r"C:\\Users\\<user>\\x"),
        (r"\Device\HarddiskVolume3\Users\bob", r"\Device\HarddiskVolume3\Users\<user>"),
        (r"C:\Documents and Settings\bob\x", r"C:\Documents and Settings\<user>\x"),
        ("C:/Users/bob/x", "C:/Users/<user>/x"),
        ("open /home/bob/.ssh/id", "open /home/<user>/.ssh/id"),
        ("/Users/bob/Library", "/Users/<user>/Library"),
        ("file:///home/bob/x", "file:///home/<user>/x"),
        // accounts
        (r"login of CONTOSO\jdoe failed", r"login of CONTOSO\<user> failed"),
        (r#""CONTOSO\\jdoe""#, r#""CONTOSO\\<user>""#),
        (r"user contoso\jdoe", r"user contoso\<user>"),
        ("UserName=jdoe;", "UserName=<user>;"),
        ("S-1-5-21-1004336348-1177238915-682003330-512", "<sid>"),
        ("owner S-1-12-1-1-2-3-4.", "owner <sid>."),
        // secrets
        ("password=hunter2&x=1", "password=<secret>&x=1"),
        (r#"{"Password" : "hunter 2"}"#, r#"{"Password" : "<secret>"}"#),
        (r#"{\"api_key\":\"abc\"}"#, r#"{\"api_key\":\"<secret>\"}"#),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer <secret>"),
        ("curl -H 'X: Bearer a1b2c3d4e5'", "curl -H 'X: Bearer <secret>'"),
        (
            "Server=db;User Id=sa;Password=p@ss;Encrypt=true",
            "Server=db;User Id=<user>;Password=<secret>;Encrypt=true",
        ),
        ("AccountName=x;AccountKey=abc+/==;Endpoint", "AccountName=x;AccountKey=<secret>;Endpoint"),
        ("postgres://app:s3cret@db/x", "postgres://app:<secret>@db/x"),
        ("https://h/c?sv=1&sig=abc%2F123", "https://h/c?sv=1&sig=<secret>"),
        ("key AKIAIOSFODNN7EXAMPLE used", "key <secret> used"),
        ("ghp_abcdefghijklmnop1234567890", "<secret>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "<secret>"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "<secret>"),
        // addresses
        ("from 203.0.113.9:443", "from <ip>:443"),
        ("addr=[2001:db8::1]:80", "addr=[<ip>]:80"),
        ("fe80::1ff:fe23:4567:890a%eth0", "<ip>%eth0"),
        ("nic 00:1A:2b:3c:4D:5e up", "nic <mac> up"),
        ("nic 00-1A-2B-3C-4D-5E", "nic <mac>"),
        // phones
        ("call +49 (0)89 123456-78", "call <phone>"),
        ("(425) 555-0123", "<phone>"),
        ("425-555-0123", "<phone>"),
        ("phone: 5550123", "phone: <phone>"),
        // places
        ("at 48.137154, 11.576124", "at <gps>"),
        ("lat=48.137154 lon=-11.576124", "lat=<gps> lon=<gps>"),
        // hosts
        ("on BUILD-AGENT-7 and db1.corp.contoso.local", "on <host> and <host>"),
        ("hostname: web01", "hostname: <host>"),
    ] {
        assert_eq!(masked(text), expected, "{text}");
    }
}

#[test]
fn what_only_looks_alike_stays() {
    for text in [
        "",
        "a@b",
        "@home",
        "x@y.1",
        // numbers
        "4111111111111112",
        "0000 0000 0000 0000",
        "133456789012345678",
        "0x4111111111111111",
        "id 4f50731a-89cf-4782-b3e0-dce8c90476ba",
        "2026-11-23 19:02:55.123456",
        "2026-11-23T19:02:55Z",
        "12:34:56",
        // versions
        "Version=4.0.0.0",
        "version 10.0.19041.1",
        "v1.2.3.4",
        "1.2.3.4.5",
        "127.0.0.1 0.0.0.0 ::1",
        // paths and names
        r"C:\Users\Public\x",
        r"C:\Windows\System32\ntdll.dll",
        r"HKLM\SOFTWARE\Microsoft",
        r"NT AUTHORITY\SYSTEM",
        r"\REGISTRY\MACHINE\SYSTEM",
        r"BIN\tool.exe",
        r"PCI\VEN_8086",
        "/api/v1/users/list",
        "S-1-5-18 S-1-5-32-544",
        "std::vec::Vec a::b",
        // secrets that are none
        "PublicKeyToken=b77a5c561934e089",
        "password: required",
        "tokens: 5",
        "the password was changed",
        "-----BEGIN CERTIFICATE-----",
        "C:\\x: key",
        "user: unknown",
        "1.5, 2.5",
        "0.123456, 0.234567, 0.345678",
    ] {
        let wanted = ALL & !Kind::Host.bit();
        assert_eq!(find(text, wanted), [], "{text}: {}", masked(text));
    }
}

#[test]
fn what_was_scrubbed_stays_as_it_is() {
    for text in [
        "user=<user> password=<secret>",
        "user: <user#k1.20780#0123456789012345>",
        "<email#k1.20780#4111111111111111> *@contoso.com",
        "203.0.113.0/24 2001:db8::/48 00:1a:2b:* 48.1, 11.6 <card-1111>",
        r"C:\Users\<user>\x CONTOSO\<user>",
        "/home/<user#k1.-1#0123456789abcdef>/x",
    ] {
        assert_eq!(masked(text), text);
    }
    // but a secret cannot hide behind the look of a mask
    assert_eq!(masked("password=<secre"), "password=<secret>");
    assert_eq!(masked("password=\"<abc>d\""), "password=\"<secret>\"");
}

#[test]
fn any_text_is_survived_and_findings_lie_in_order() {
    let seed = 0x5eed_0001_u64;
    println!("seed {seed:#x}");
    let mut x = seed;
    let mut roll = |n: usize| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x % n as u64) as usize
    };
    let bits = [
        "@",
        ":",
        "::",
        "=",
        "\\",
        "\\\\",
        "/",
        "//",
        "-",
        ".",
        " ",
        "(",
        ")",
        "+",
        "%40",
        "%",
        "<",
        ">",
        "\"",
        "'",
        "é",
        "日",
        "\u{1F600}",
        "1",
        "12",
        "123",
        "4111",
        "1111",
        "203.0.113.9",
        "fe80",
        "S-1-",
        "5-21-",
        "Users",
        "home",
        "CONTOSO",
        "bob",
        "password",
        "user",
        "Bearer ",
        "eyJ",
        "AKIA",
        "-----BEGIN ",
        "PRIVATE KEY",
        "-----END ",
        "lat",
        "48.137154",
        "local",
        "00:1a:2b:3c:4d:5e",
        "#",
        "<user#k1.",
        "\0",
        "\n",
        "_",
        "a",
        "F",
        "://",
    ];
    let finder = Finder::new(&[]);
    let mut found = Vec::new();
    for _ in 0..60_000 {
        let text: String = (0..roll(14)).map(|_| bits[roll(bits.len())]).collect();
        found.clear();
        finder.find(&text, ALL, &mut Vec::new(), &mut found);
        let mut last = 0;
        for f in &found {
            assert!(last <= f.start && f.start < f.end, "{text:?} {found:?}");
            assert!(text.get(f.start..f.end).is_some(), "{text:?} {f:?}");
            last = f.end;
        }
    }
}
