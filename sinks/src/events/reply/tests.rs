use super::*;

fn reply(status: u16, body: &str) -> Reply {
    Reply {
        status,
        retry_after: None,
        sent_at: None,
        kill_tokens: Vec::new(),
        kill_duration: None,
        time_delta: None,
        collector_error: None,
        request_id: String::new(),
        body: Body::Whole(body.as_bytes().to_vec().into()),
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn rejected(outcome: Outcome) -> Vec<(usize, RejectReason)> {
    match outcome {
        Outcome::Delivered(list) => list.into_iter().map(|(n, reason, _)| (n, reason)).collect(),
        other => panic!("not delivered: {other:?}"),
    }
}

#[test]
fn every_row_of_the_status_table() {
    for status in 100..=999_u16 {
        for events in [1, 4] {
            let outcome = reply(status, "").outcome(events, now());
            let fits = match status {
                200 | 204 => matches!(&outcome, Outcome::Delivered(list) if list.is_empty()),
                413 if events > 1 => matches!(outcome, Outcome::Split(_)),
                413 => matches!(outcome, Outcome::Reject(RejectReason::TooLarge, _)),
                408 | 409 | 421 | 423 | 425 | 429 | 500 | 502..=504 | 506..=599 => {
                    matches!(outcome, Outcome::Retry { .. })
                }
                300..=399 | 401 | 403..=405 | 407 | 410 | 415 | 501 | 505 => {
                    matches!(outcome, Outcome::Stop { .. })
                }
                400..=499 => matches!(outcome, Outcome::Reject(RejectReason::Invalid, _)),
                _ => matches!(outcome, Outcome::Retry { .. }),
            };
            assert!(fits, "{status} of {events}: {outcome:?}");
        }
    }
}

#[test]
fn an_acknowledgement_names_what_was_rejected() {
    for live in
        [r#"{"acc":1}"#, "{}", "", " \r\n", r#"{"acc":1,"rej":0,"efi":{}}"#, r#"{"acc":1,"extra":[1]}"#]
    {
        assert_eq!(rejected(reply(200, live).outcome(1, now())), [], "{live}");
    }
    let body = r#"{"acc":2,"rej":2,"efi":{"EventTooLarge":[3],"InvalidName":[0,3,99]}}"#;
    assert_eq!(
        rejected(reply(200, body).outcome(4, now())),
        [(0, RejectReason::Invalid), (3, RejectReason::TooLarge)],
        "first reason counts, places that are none are passed over"
    );
    let text = r#"{"acc":"1","rej":"1","efi":{"InvalidName":[1]}}"#;
    assert_eq!(rejected(reply(200, text).outcome(2, now())), [(1, RejectReason::Invalid)], "numbers as text");
    let all = r#"{"rej":2,"efi":{"Banned":"all"}}"#;
    assert_eq!(rejected(reply(200, all).outcome(2, now())).len(), 2);
    let mute = r#"{"rej":3}"#;
    assert_eq!(rejected(reply(200, mute).outcome(3, now())).len(), 3);
}

#[test]
fn an_acknowledgement_that_says_nothing_in_its_own_way_is_one() {
    for odd in [
        r#"{"acc":5,"rej":0,"efi":null}"#,
        r#"{"acc":5,"efi":[]}"#,
        r#"{"acc":5,"rej":null,"efi":{}}"#,
        r#"{"acc":null}"#,
        r#"{"acc":"5","rej":"0","efi":""}"#,
        r#"{"acc":5,"efi":{"InvalidName":null,"Banned":[]}}"#,
        "\u{feff}{\"acc\":5}",
        "\u{feff}\r\n",
    ] {
        assert_eq!(rejected(reply(200, odd).outcome(5, now())), [], "{odd}");
    }
}

#[test]
fn rejections_without_a_name_are_found_by_halves() {
    assert!(matches!(reply(200, r#"{"acc":3,"rej":1}"#).outcome(4, now()), Outcome::Split(_)));
    assert!(matches!(
        reply(200, r#"{"acc":1,"rej":2,"efi":{"x":[0]}}"#).outcome(3, now()),
        Outcome::Split(_)
    ));
    assert!(matches!(reply(200, r#"{"acc":3}"#).outcome(4, now()), Outcome::Split(_)));
    assert!(matches!(reply(200, r#"{"acc":0}"#).outcome(1, now()), Outcome::Retry { .. }));
    assert_eq!(rejected(reply(200, r#"{"rej":1}"#).outcome(1, now())), [(0, RejectReason::Invalid)]);
}

#[test]
fn what_is_no_acknowledgement_is_tried_again() {
    for body in [
        "<html>sign in</html>",
        "ok",
        "[1]",
        r#"{"acc":"#,
        r#"{"acc":-1}"#,
        r#"{"acc":"x"}"#,
        r#"{"efi":[1]}"#,
        "\u{feff}[1]",
    ] {
        assert!(matches!(reply(200, body).outcome(1, now()), Outcome::Retry { .. }), "{body}");
    }
    let long = format!("{{}}{}", " ".repeat(ACK_BYTES_MAX));
    for body in [Body::Cut("{}".into()), Body::TooLong("{}".into()), Body::Whole(long.into())] {
        let cut = Reply { body, ..reply(200, "") };
        assert!(matches!(cut.outcome(1, now()), Outcome::Retry { .. }));
    }
}

#[test]
fn a_wish_to_wait_is_passed_on() {
    let busy = Reply { retry_after: Some("7".into()), ..reply(503, "") };
    assert!(matches!(busy.outcome(1, now()), Outcome::Retry { after: Some(d), .. } if d.as_secs() == 7));
    let date = Reply { retry_after: Some("Tue, 14 Nov 2023 22:13:50 GMT".into()), ..reply(429, "") };
    assert!(matches!(date.outcome(1, now()), Outcome::Retry { after: Some(d), .. } if d.as_secs() == 30));
    for status in [401, 403] {
        let over = Reply { retry_after: Some("600".into()), ..reply(status, "over quota") };
        assert!(matches!(over.outcome(1, now()), Outcome::Stop { after: Some(d), .. } if d.as_secs() == 600));
    }
}

#[test]
fn tenants_are_killed_in_both_forms() {
    let kill = |tokens: &[&str], duration: Option<&str>| {
        let kill_tokens = tokens.iter().map(|t| (*t).to_owned()).collect();
        Reply { kill_tokens, kill_duration: duration.map(str::to_owned), ..reply(200, "") }.kill()
    };
    let both =
        Some(Kill { tokens: vec!["a-1".into(), "b-2".into()], duration: Some(Duration::from_secs(60)) });
    assert_eq!(kill(&["a-1", "b-2"], Some("60")), both, "a line each");
    assert_eq!(kill(&["a-1, b-2:all"], Some(" 60 ")), both, "one line, with a suffix");
    assert_eq!(kill(&["a-1"], Some("this-request-only")).map(|k| k.duration), Some(None));
    assert_eq!(kill(&["a"], Some("9999999999999999999999")).and_then(|k| k.duration), Some(KILL_MAX));
    for (tokens, duration) in
        [(&["a"][..], None), (&["a"], Some("0")), (&["a"], Some("-5")), (&[":all"], Some("5"))]
    {
        assert_eq!(kill(tokens, duration), None, "{tokens:?} {duration:?}");
    }
}

#[test]
fn what_the_endpoint_says_is_cut_and_cleaned() {
    let Outcome::Reject(_, why) =
        reply(400, &format!("bad\u{1b}[31m\n{}", "x".repeat(5000))).outcome(1, now())
    else {
        panic!("a bad request is rejected");
    };
    assert!(why.starts_with("status 400: bad[31m") && why.chars().count() <= 200, "{why}");
}
