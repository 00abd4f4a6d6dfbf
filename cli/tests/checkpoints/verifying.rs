use std::process::Stdio;
use std::time::{Duration, Instant};

use atoll_checkpoint::write::{ShardFile, Writer};
use atoll_test_store::Verdict;
use serde_json::json;

use super::laboratory::{Laboratory, cut, objects, on_every_store, place};
use super::listing::newer;

#[test]
fn a_whole_folder_is_told_so_and_every_shard_read_once() {
    on_every_store(|laboratory| {
        laboratory.three();
        let said = laboratory.done("verify", &[]).out;
        let last = said.lines().last().unwrap();
        assert!(last.starts_with(&format!("{}: 3 checkpoints are whole; 7 shards, ", laboratory.uri)), "{said}");
        let json = laboratory.done("verify", &["--json"]).json();
        assert_eq!((&json["checkpoints"], &json["whole"], &json["shards"]), (&json!(3), &json!(3), &json!(7)));
        assert_eq!(json["beside"], json!({"unnamedShards": 0, "unnamedBytes": 0, "intents": 0, "condemnations": 0}));
        let one = laboratory.done("verify", &["1", "--json"]).json();
        assert_eq!((&one["checkpoints"], &one["shards"], &one["beside"]), (&json!(1), &json!(2), &json!(null)));
        if let Some(server) = &laboratory.server {
            let _of_before = server.seen();
            laboratory.done("verify", &[]);
            assert_eq!(server.seen().iter().filter(|seen| seen.key.ends_with(".safetensors")).count(), 7);
        }
    });
}

#[test]
fn what_is_damaged_is_named_with_the_checkpoints_that_it_spoils() {
    on_every_store(|laboratory| {
        let [one, two, three] = laboratory.three();
        let flipped = objects(&one)[1].clone();
        laboratory.damage(&flipped, |mut bytes| {
            bytes[200] ^= 4;
            bytes
        });
        let shared = atoll_checkpoint::folder::shard_name(&two.replicated[1].pieces[0].shard);
        std::fs::remove_file(laboratory.objects.join(&shared)).unwrap();
        let said = laboratory.run("verify", &[]);
        assert_eq!(said.code, Some(1), "{said:?}");
        let expected =
            [&*flipped, "the hash of its bytes is", "spoils 1-1-2-1\n", &*shared, "spoils 1-1-2-3, 1-1-2-2, 1-1-2-1\n"];
        for expected in expected {
            assert!(said.out.contains(expected), "{expected}: {said:?}");
        }
        assert!(said.error.contains("0 of 3 checkpoints whole, 2 objects damaged; 7 shards, "), "{said:?}");
        let said = laboratory.run("verify", &["--json"]);
        let damaged = said.json()["damaged"].clone();
        assert_eq!((said.code, damaged.as_array().unwrap().len()), (Some(1), 2));
        let spoils = |object: &str| {
            let found = damaged.as_array().unwrap().iter().find(|damage| damage["object"].as_str().unwrap().ends_with(object));
            found.unwrap()["checkpoints"].clone()
        };
        assert_eq!(spoils(&flipped), json!([one.place]));
        assert_eq!(spoils(&shared), json!([one.place, two.place, three.place]));
        assert_eq!(laboratory.run("verify", &["3"]).code, Some(1));
    });
}

#[test]
fn a_truncated_manifest_and_one_of_a_later_version_are_named() {
    on_every_store(|laboratory| {
        let [one, two, three] = laboratory.three().map(|manifest| objects(&manifest)[0].clone());
        laboratory.damage(&one, |bytes| bytes[..bytes.len() / 2].to_vec());
        laboratory.damage(&two, newer);
        let said = laboratory.run("verify", &[]);
        assert_eq!(said.code, Some(1), "{said:?}");
        for expected in [&*one, "it is no manifest", &*two, "this program reads up to 1", "2 shards that no checkpoint names"] {
            assert!(said.out.contains(expected), "{expected}: {said:?}");
        }
        assert!(said.error.contains("1 of 3 checkpoints whole, 2 objects damaged"), "{said:?}");
        for command in ["show", "verify", "export"] {
            let more: &[&str] = if command == "export" { &["1", "--out", "model"] } else { &["1"] };
            let said = laboratory.run(command, more);
            assert_eq!(said.code, Some(1), "{said:?}");
            assert!(said.error.starts_with("error: cannot read ") && said.error.contains(&one), "{said:?}");
        }
        assert!(!said.out.contains(&three) && !laboratory.path().join("model").exists());
    });
}

#[test]
fn what_lies_beside_checkpoints_is_counted_and_no_error() {
    on_every_store(|laboratory| {
        laboratory.three();
        let writer = Writer::new(laboratory.folder.clone(), "another");
        let values = cut("parameters", 77, 100).values;
        let files = [ShardFile::new(atoll_checkpoint::manifest::ElementType::F32, values)];
        laboratory.runtime.block_on(writer.write(&files)).unwrap();
        laboratory.runtime.block_on(laboratory.folder.store().put("condemned/somebody.json", &["[]".into()])).unwrap();
        let said = laboratory.done("verify", &[]).out;
        let expected = "beside them: 1 shard that no checkpoint names (472 bytes), 1 intent, 1 condemnation\n";
        assert!(said.contains(expected), "{said}");
    });
}

#[test]
fn an_interrupt_ends_a_long_look() {
    let laboratory = Laboratory::s3();
    laboratory.three();
    let server = laboratory.server.as_ref().unwrap();
    let _of_writing = server.seen();
    server.judge(|seen| {
        let is_shard = seen.key.ends_with(".safetensors");
        if is_shard { Verdict::Wait(Duration::from_mins(1)) } else { Verdict::Pass }
    });
    let mut command = laboratory.command(&["verify", &laboratory.uri]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_mins(1);
    while !server.seen().iter().any(|seen| seen.key.ends_with(".safetensors")) {
        assert!(Instant::now() < until, "it reads no shard");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(Instant::now() < until, "nobody waits for the store");
}

#[test]
fn what_is_removed_while_it_is_read_is_not_damaged() {
    let laboratory = Laboratory::s3();
    let [one, ..] = laboratory.three();
    let server = laboratory.server.as_ref().unwrap();
    let [manifest, shard] = objects(&one).map(|name| laboratory.objects.join(name));
    // Once the manifests are read, somebody prunes.
    server.judge(move |seen| {
        if seen.key.ends_with(".safetensors") {
            let _gone_already = (std::fs::remove_file(&manifest), std::fs::remove_file(&shard));
        }
        Verdict::Pass
    });
    laboratory.done("verify", &[]);
    assert_eq!(laboratory.runtime.block_on(laboratory.folder.entries()).unwrap()[0].place, place(2));
}
