use serde_json::json;

use super::laboratory::{Laboratory, on_every_store};

#[test]
fn what_differs_is_told_by_field_and_by_vector() {
    on_every_store(|laboratory| {
        let [one, _, three] = laboratory.three();
        let json = laboratory.done("diff", &["1", "latest", "--json"]).json();
        assert_eq!((&json["one"], &json["other"]), (&json!(one.place), &json!(three.place)));
        let fields: Vec<_> = json["fields"].as_array().unwrap().iter().map(|field| field["name"].as_str().unwrap()).collect();
        let slots = ["slot 0: round", "slot 0: steps", "slot 2: round", "slot 2: steps"];
        assert_eq!(fields, [&["loss", "place", "step", "tokens"][..], &slots].concat());
        let vector =
            |name: &str| json["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap().clone();
        let parameters = vector("parameters");
        // Each value is two more; the first of a hundred thousand is still exact.
        assert_eq!((&parameters["largest"], &parameters["rootMeanSquare"]), (&json!(2.0), &json!(2.0)));
        assert_eq!((&parameters["sharedBytes"], &parameters["newBytes"]), (&json!(0), &json!(472)));
        let momentum = vector("outerMomentum");
        assert_eq!((&momentum["largest"], &momentum["newBytes"]), (&json!(0.0), &json!(0)));
        assert_eq!(vector("config.json")["onlyIn"], json!(three.place));
        let said = laboratory.done("diff", &["1", "3"]).out;
        for expected in ["from 1-1-2-1 to 1-1-2-3", "only in 1-1-2-3", "2.000e0", "slot 2: round"] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        let back = laboratory.done("diff", &["3", "1", "--json"]).json();
        let gone = back["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == "config.json").unwrap();
        assert_eq!((&gone["onlyIn"], &gone["newBytes"]), (&json!(three.place), &json!(0)));
    });
}

#[test]
fn a_checkpoint_and_itself_differ_in_nothing_and_no_shard_is_read() {
    let laboratory = Laboratory::s3();
    laboratory.three();
    let server = laboratory.server.as_ref().unwrap();
    let _of_writing = server.seen();
    let json = laboratory.done("diff", &["3", "latest", "--json"]).json();
    assert_eq!(json["fields"], json!([]));
    assert!(json["vectors"].as_array().unwrap().iter().all(|vector| vector["newBytes"] == 0), "{json}");
    assert!(!server.seen().iter().any(|seen| seen.key.ends_with(".safetensors")));
}
