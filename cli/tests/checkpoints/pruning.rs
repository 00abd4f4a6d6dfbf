use serde_json::json;

use super::laboratory::{cut, objects, on_every_store, place};

#[test]
fn old_checkpoints_and_what_they_alone_need_are_removed() {
    on_every_store(|laboratory| {
        let all: Vec<_> = (1..=5).map(|round| laboratory.published(place(round), &[cut("parameters", round, 100)])).collect();
        let length = |name: &String| std::fs::metadata(laboratory.objects.join(name)).unwrap().len();
        let bytes: u64 = [&all[0], &all[2]].into_iter().flat_map(objects).map(|name| length(&name)).sum();
        let more = ["--keep", "2", "--keep-every", "2"];
        let dry = laboratory.done("prune", &[&more[..], &["--dry-run"]].concat()).out;
        assert!(dry.starts_with("would remove 1-1-2-1\nwould remove 1-1-2-3\n"), "{dry}");
        assert!(
            dry.contains("2 checkpoints and 2 shards would be removed, ") && dry.ends_with("; 3 checkpoints kept\n"),
            "{dry}"
        );
        let json = laboratory.done("prune", &[&more[..], &["--json"]].concat()).json();
        assert_eq!(json["removed"], json!([place(1), place(3)]));
        assert_eq!((&json["kept"], &json["shards"], &json["bytes"]), (&json!(3), &json!(2), &json!(bytes)));
        let said = laboratory.done("verify", &[]).out;
        assert!(said.contains("3 checkpoints are whole; 3 shards"), "{said}");
        assert!(said.contains("beside them: 0 shards that no checkpoint names (0 bytes), 0 intents, 0 condemnations"), "{said}");
        let again = laboratory.done("prune", &more).out;
        assert!(again.contains("0 checkpoints and 0 shards removed, 0 bytes; 3 checkpoints kept"), "{again}");
    });
}

#[test]
fn nothing_is_removed_where_a_manifest_that_stays_cannot_be_read() {
    on_every_store(|laboratory| {
        let [.., newest] = laboratory.three();
        laboratory.damage(&objects(&newest)[0], |bytes| bytes[..9].to_vec());
        for more in [&["--keep", "1"][..], &["--keep", "1", "--dry-run"]] {
            let said = laboratory.run("prune", more);
            assert_eq!(said.code, Some(1), "{said:?}");
            assert!(said.error.contains("it is no manifest"), "{said:?}");
        }
        assert_eq!(laboratory.runtime.block_on(laboratory.folder.entries()).unwrap().len(), 3);
    });
}

#[test]
fn one_at_least_is_kept() {
    on_every_store(|laboratory| {
        let said = laboratory.run("prune", &["--keep", "0"]);
        assert_eq!(said.code, Some(2), "{said:?}");
    });
}
