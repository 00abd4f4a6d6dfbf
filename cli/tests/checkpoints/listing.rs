use serde_json::json;

use super::laboratory::{Laboratory, cut, manifest, objects, on_every_store, place};
use atoll_checkpoint::Place;
use atoll_checkpoint::folder::manifest_name;

#[test]
fn a_list_has_all_checkpoints_and_says_which_is_the_newest() {
    on_every_store(|laboratory| {
        let three = laboratory.three();
        let said = laboratory.done("list", &[]).out;
        let rows: Vec<_> = said.lines().filter(|line| line.contains('┆')).map(cells).collect();
        assert_eq!(rows[0][..8], ["lineage", "term", "epoch", "round", "step", "loss", "tokens", "size"]);
        assert_eq!(rows[1][..7], ["1", "1", "2", "1", "20", "4.0000", "1000"]);
        assert_eq!(rows[3][..7], ["1", "1", "2", "3", "60", "1.3333", "3000"]);
        assert_eq!([&rows[1][9], &rows[2][9], &rows[3][9]], ["", "", "newest"]);
        let json = laboratory.done("list", &["--json"]).json();
        let newest = &json["checkpoints"][2];
        assert_eq!((&newest["newest"], &newest["bytes"]), (&json!(true), &json!(three[2].bytes())));
        assert_eq!(newest["checkpoint"], json!(three[2].place));
        assert!(newest["written"].as_str().unwrap().starts_with("20"));
        assert_eq!(json["checkpoints"][0]["loss"], json!(4.0));
    });
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('│').split('┆').map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn a_list_reads_no_shards() {
    let laboratory = Laboratory::s3();
    laboratory.three();
    let server = laboratory.server.as_ref().unwrap();
    let _of_writing = server.seen();
    laboratory.done("list", &[]);
    let seen = server.seen();
    assert_eq!(seen.len(), 4, "one list and three manifests: {seen:?}");
    assert!(seen.iter().all(|seen| seen.key.contains("checkpoints")), "{seen:?}");
}

#[test]
fn a_thousand_checkpoints_are_listed() {
    let laboratory = Laboratory::local();
    let first = laboratory.published(place(1), &[cut("parameters", 1, 10)]);
    for round in 2..=1_000 {
        let content = manifest(place(round), first.replicated.clone()).to_json().unwrap();
        std::fs::write(laboratory.objects.join(manifest_name(place(round))), content).unwrap();
    }
    let json = laboratory.done("list", &["--json"]).json();
    let rounds: Vec<_> = json["checkpoints"].as_array().unwrap().iter().map(|line| line["round"].as_u64().unwrap()).collect();
    assert_eq!(rounds, (1..=1_000).collect::<Vec<_>>());
}

#[test]
fn a_manifest_that_cannot_be_read_is_a_row_that_says_so() {
    on_every_store(|laboratory| {
        let three = laboratory.three().map(|manifest| objects(&manifest)[0].clone());
        laboratory.damage(&three[0], |bytes| bytes[..bytes.len() / 2].to_vec());
        laboratory.damage(&three[2], newer);
        let said = laboratory.done("list", &[]).out;
        let rows: Vec<_> = said.lines().filter(|line| line.contains('┆')).map(cells).collect();
        assert_eq!(rows[1][3..], ["1", "-", "-", "-", "-", &rows[1][8], "damaged"]);
        assert_eq!(rows[3][9], "newest, of a newer program");
        assert!(said.contains("1-1-2-1: cannot read") && said.contains("it is no manifest"), "{said}");
        assert!(said.contains("version 2, and this program reads up to 1"), "{said}");
        let json = laboratory.done("list", &["--json"]).json();
        assert_eq!(json["checkpoints"][0].get("step"), None);
        assert!(json["checkpoints"][2]["problem"].as_str().unwrap().contains("use the program that wrote it"));
    });
}

/// The manifest as a later version might have it.
pub(crate) fn newer(bytes: Vec<u8>) -> Vec<u8> {
    String::from_utf8(bytes).unwrap().replace("\"version\": 1", "\"version\": 2").into_bytes()
}

#[test]
fn of_two_checkpoints_of_a_round_the_newer_is_meant() {
    on_every_store(|laboratory| {
        laboratory.published(place(4), &[cut("parameters", 1, 10)]);
        let newer = Place { term: 2, epoch: 3, ..place(4) };
        laboratory.published(newer, &[cut("parameters", 2, 10)]);
        laboratory.published(Place { round: 5, ..newer }, &[cut("parameters", 3, 10)]);
        let list = laboratory.done("list", &["--json"]).json();
        assert_eq!(list["checkpoints"].as_array().unwrap().len(), 3);
        for text in ["4", "round:4", "1-2-3-4", &newer.to_string()] {
            let shown = laboratory.done("show", &[text, "--json"]).json();
            assert_eq!((&shown["manifest"]["place"], &shown["newest"]), (&json!(newer), &json!(false)), "{text}");
        }
        let older = laboratory.done("show", &["1-1-2-4", "--json"]).json();
        assert_eq!(older["manifest"]["place"], json!(place(4)));
        assert_eq!(laboratory.done("show", &["--json"]).json()["newest"], json!(true));
    });
}

#[test]
fn what_a_checkpoint_holds_is_shown() {
    on_every_store(|laboratory| {
        let newest = laboratory.three()[2].clone();
        let said = laboratory.done("show", &["latest"]).out;
        assert!(said.starts_with(&format!("checkpoint 1-1-2-3 of {}, the newest\n", laboratory.uri)), "{said}");
        for expected in [&newest.place.to_string(), "0a1b0a1b0a1b", "(160 characters)", "shards      5 shards", "begun from  -"] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        let rows: Vec<_> = said.lines().filter(|line| line.contains('┆')).map(cells).collect();
        assert_eq!(rows[1], ["parameters", "F32", "100", "1", "472 bytes"]);
        assert!(rows.iter().any(|row| row[..4] == ["0", "3", "60", "adamW.moment"]), "{said}");
        assert!(rows.iter().any(|row| row[..3] == ["2", "2, one checkpoint behind", "40"]), "{said}");
        assert!(rows.iter().any(|row| row[..3] == ["config.json", "U8", "2"]), "{said}");
        let json = laboratory.done("show", &["--json"]).json();
        assert_eq!(json["manifest"], serde_json::to_value(&newest).unwrap());
    });
}
