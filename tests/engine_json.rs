//! JSON values of manifests: numbers with all of their digits, names that come twice, and what is no JSON.

use proptest::prelude::*;
use redis_deploy::engine::json::{Json, JsonError};

fn parse(text: &str) -> Json {
    Json::parse(text, 100).expect("a JSON text")
}

#[test]
fn numbers_are_equal_by_their_decimal_values() {
    let groups: [&[&str]; 12] = [
        &["1", "1.0", "1e0", "1E+0", "10e-1", "0.1e1", "100e-2"],
        &["-1", "-1.00", "-1e-0"],
        &["0", "-0", "0.0", "0e5", "-0e-400"],
        &["18446744073709551616"],
        &["18446744073709551617", "18446744073709551617.0"],
        &["123456789012345678901234567890", "12345678901234567890123456789e1"],
        &["123456789012345678901234567891"],
        &["0.12345678901234567890"],
        &["0.12345678901234567891"],
        &["1e-400", "10e-401"],
        &["2e-400"],
        &["1e99999999999999999999"],
    ];
    for (index, group) in groups.iter().enumerate() {
        for text in *group {
            for (other, others) in groups.iter().enumerate() {
                for against in *others {
                    assert_eq!(parse(text) == parse(against), index == other, "{text} and {against}");
                    let same = parse(text).canonical() == parse(against).canonical();
                    assert_eq!(same, index == other, "{text} and {against} as canonical texts");
                }
            }
        }
    }
}

#[test]
fn objects_are_equal_whatever_the_order_of_their_fields() {
    let (one, other) = (
        parse(r#"{"a":[1,{"x":null,"y":"é\n"}],"b":true}"#),
        parse(r#"{"b":true,"a":[1.0,{"y":"\u00e9\u000a","x":null}]}"#),
    );
    assert_eq!(one, other);
    assert_eq!(one.canonical(), other.canonical());
    assert_ne!(one, parse(r#"{"a":[1,{"x":null,"y":"é\n"}],"b":false}"#));
    assert_ne!(parse("[1,2]"), parse("[2,1]"));
    assert_eq!(one.to_string(), r#"{"a":[1,{"x":null,"y":"é\n"}],"b":true}"#);
}

#[test]
fn a_name_that_comes_twice_is_known() {
    let Json::Object(object) = parse(r#"{"a":1,"b":2,"a":3}"#) else { panic!("an object") };
    assert_eq!(object.repeated(), ["a"]);
    assert_eq!(object.get("a"), Some(&parse("3")));
    assert_eq!(object.names().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_is_no_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":}",
        "{\"a\":1,}",
        "01",
        "1.",
        "+1",
        "nul",
        "1 2",
        "\"\\ud800\"",
        "\"\u{1}\"",
        "{a:1}",
        "\u{feff}1",
    ] {
        assert!(matches!(Json::parse(text, 100), Err(JsonError::Syntax(_))), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    /// Other readers parse the same text: replies embed it, and stored manifests were accepted by serde_json.
    #[test]
    fn what_is_json_is_the_same_for_serde_json(text in r#"([\[\]{},:]|"[a-c\\nu0-9é]{0,6}"|[-+0-9.eE]{1,5}|null|true| ){0,12}"#) {
        let read = Json::parse(&text, 100).is_ok();
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(_) => prop_assert!(read, "{text}"),
            Err(error) => prop_assert!(!read || error.to_string().contains("out of range"), "{text}: {error}"),
        }
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(Json::parse(&nested(3), 3).is_ok());
    assert!(matches!(Json::parse(&nested(4), 3), Err(JsonError::TooDeep)));
    assert!(matches!(Json::parse(&"[".repeat(1_000_000), 100), Err(JsonError::TooDeep)));
}
