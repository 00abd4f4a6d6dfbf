use super::ground::{Ground, cut, on_every_store, place, published};
use atoll_checkpoint::error::Kind;
use atoll_checkpoint::folder::{manifest_name, shard_name};
use atoll_checkpoint::{Manifest, Place};

/// Three checkpoints with a shard of their own each; `damage` is done to an object of the newest.
async fn newest_after(
    ground: &Ground,
    object: impl Fn(&str, &str) -> String,
    damage: impl Fn(Vec<u8>) -> Option<Vec<u8>>,
) -> String {
    let mut newest = None;
    for round in 1..=3 {
        newest = Some(published(&ground.folder, place(round), &[cut("parameters", round, 100)]).await);
    }
    let newest = newest.unwrap();
    let object = object(&manifest_name(newest.place), &shard_name(&newest.replicated[0].pieces[0].shard));
    let store = ground.folder.store();
    let (content, _) = store.get(&object, 1 << 20).await.unwrap().unwrap();
    match damage(content.to_vec()) {
        Some(changed) => store.put(&object, &[changed.into()]).await.unwrap(),
        None => store.remove(&object).await.unwrap(),
    }
    let found = ground.folder.newest_whole(|_, _| ()).await.unwrap();
    assert_eq!(found.manifest.unwrap().place, place(2));
    let skipped: Vec<(Place, _)> = found.skipped;
    assert_eq!((skipped.len(), skipped[0].0), (1, place(3)));
    assert!(matches!(skipped[0].1.kind, Kind::Damaged | Kind::Missing | Kind::Newer));
    assert!(skipped[0].1.object.ends_with(&object), "{}", skipped[0].1);
    skipped[0].1.to_string()
}

fn shard(_: &str, shard: &str) -> String {
    shard.to_owned()
}

fn manifest(manifest: &str, _: &str) -> String {
    manifest.to_owned()
}

#[tokio::test]
async fn a_flipped_bit_in_a_shard_is_found_and_the_one_before_taken() {
    on_every_store(async |ground| {
        let flip = |mut bytes: Vec<u8>| {
            bytes[200] ^= 4;
            Some(bytes)
        };
        let said = newest_after(&ground, shard, flip).await;
        assert!(said.contains("the hash of its bytes is") && said.contains("`atoll checkpoint verify`"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn a_shard_that_is_short_or_long_or_gone_is_found() {
    on_every_store(async |ground| {
        let said = newest_after(&ground, shard, |bytes| Some(bytes[..100].to_vec())).await;
        assert!(said.contains("it has 100 bytes, and"), "{said}");
    })
    .await;
    on_every_store(async |ground| {
        let said = newest_after(&ground, shard, |bytes| Some([bytes, vec![0]].concat())).await;
        assert!(said.contains("were written"), "{said}");
    })
    .await;
    on_every_store(async |ground| {
        let said = newest_after(&ground, shard, |_| None).await;
        assert!(said.contains("it is not there"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn a_truncated_or_newer_manifest_is_found() {
    on_every_store(async |ground| {
        let said = newest_after(&ground, manifest, |bytes| Some(bytes[..bytes.len() / 2].to_vec())).await;
        assert!(said.contains("it is no manifest"), "{said}");
    })
    .await;
    on_every_store(async |ground| {
        let newer =
            |bytes: Vec<u8>| Some(String::from_utf8(bytes).unwrap().replace("\"version\": 1", "\"version\": 2").into_bytes());
        let said = newest_after(&ground, manifest, newer).await;
        assert!(said.contains("version 2, and this program reads up to 1"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn a_manifest_under_the_name_of_another_place_is_found() {
    on_every_store(async |ground| {
        let other = |bytes: Vec<u8>| {
            let manifest = Manifest::parse(&bytes).unwrap();
            Some(Manifest { place: place(7), ..manifest }.to_json().unwrap())
        };
        let said = newest_after(&ground, manifest, other).await;
        assert!(said.contains("it says that it is checkpoint"), "{said}");
    })
    .await;
}

#[tokio::test]
async fn a_shard_that_several_checkpoints_name_is_read_once_and_spoils_them_all() {
    on_every_store(async |ground| {
        let same = cut("parameters", 0, 100);
        let mut manifests = Vec::new();
        for round in 1..=3 {
            let cuts =
                if round < 3 { vec![same.clone(), cut("outerMomentum", round, 10)] } else { vec![cut("parameters", 3, 100)] };
            manifests.push(published(&ground.folder, place(round), &cuts).await);
        }
        let store = ground.folder.store();
        let before = store.traffic().requests();
        assert_eq!(ground.folder.check_all(&manifests, |_, _| ()).await, Ok(vec![]));
        assert_eq!(store.traffic().requests() - before, 4, "four shards, and five names of them");
        store.remove(&shard_name(&manifests[0].replicated[0].pieces[0].shard)).await.unwrap();
        let damages = ground.folder.check_all(&manifests, |_, _| ()).await.unwrap();
        assert_eq!((damages.len(), damages[0].problem.kind), (1, Kind::Missing));
        assert_eq!(damages[0].checkpoints, [place(1), place(2)].into());
    })
    .await;
}
