use super::ground::{cut, files, on_every_store, place, published, written};
use atoll_checkpoint::folder::shard_name;
use atoll_checkpoint::retention::Retention;
use atoll_checkpoint::sweep::Sweeper;
use atoll_checkpoint::write::Writer;

const LAST: Retention = Retention { keep: 1, keep_every: None };

#[tokio::test]
async fn what_is_kept_stays_whole_and_the_rest_goes() {
    on_every_store(async |ground| {
        let same = cut("parameters", 0, 100);
        for round in 1..=5 {
            published(&ground.folder, place(round), &[same.clone(), cut("outerMomentum", round, 10)]).await;
        }
        let mut sweeper = Sweeper::new(ground.folder.clone(), "collector");
        let retention = Retention { keep: 2, keep_every: Some(2) };
        let wanted = sweeper.would_sweep(&retention).await.unwrap();
        let swept = sweeper.sweep(&retention).await.unwrap();
        assert_eq!(swept, wanted);
        assert_eq!(swept.checkpoints, [place(1), place(3)].into());
        assert_eq!(swept.shards.len(), 2);
        let kept: Vec<_> = ground.folder.entries().await.unwrap().iter().map(|entry| entry.place.round).collect();
        assert_eq!(kept, [2, 4, 5]);
        for round in kept {
            let manifest = ground.folder.manifest(place(round)).await.unwrap();
            assert_eq!(ground.folder.check(&manifest, |_, _| ()).await, []);
        }
        // A later one looks only at what it removes.
        published(&ground.folder, place(6), &[same, cut("outerMomentum", 6, 10)]).await;
        let swept = sweeper.sweep(&retention).await.unwrap();
        assert_eq!((swept.checkpoints.len(), swept.shards.len()), (0, 0));
        assert_eq!(ground.folder.store().list("condemned", None).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn what_a_broken_off_checkpoint_left_goes_and_what_a_writer_intends_stays() {
    on_every_store(async |ground| {
        published(&ground.folder, place(1), &[cut("parameters", 1, 10)]).await;
        let abandoned = written(&ground.folder, place(2), &[cut("parameters", 2, 10)]).await;
        Writer::new(ground.folder.clone(), &format!("writer-{}", place(2))).end().await.unwrap();
        let intended = written(&ground.folder, place(3), &[cut("parameters", 3, 10)]).await;
        let swept = Sweeper::new(ground.folder.clone(), "collector").sweep(&LAST).await.unwrap();
        assert_eq!(swept.shards, abandoned.shards().into_iter().copied().collect());
        ground.folder.publish(&intended).await.unwrap();
        assert_eq!(ground.folder.check(&intended, |_, _| ()).await, []);
    })
    .await;
}

#[tokio::test]
async fn what_is_condemned_is_written_as_another_copy() {
    on_every_store(async |ground| {
        let orphan = files(&[cut("parameters", 1, 10)]);
        let first = Writer::new(ground.folder.clone(), "a").write(orphan.clone()).await.unwrap();
        let condemned = serde_json::to_vec(&[first[0].shard]).unwrap();
        ground.folder.store().put("condemned/somebody.json", &[condemned.into()]).await.unwrap();
        let second = Writer::new(ground.folder.clone(), "b").write(orphan.clone()).await.unwrap();
        assert_eq!(second[0].shard, first[0].shard.next_copy());
        // As that collector goes on to do.
        ground.folder.store().remove(&shard_name(&first[0].shard)).await.unwrap();
        let values = ground.folder.values(atoll_checkpoint::manifest::ElementType::F32, &second[0]).await.unwrap();
        assert_eq!(values, cut("parameters", 1, 10).values);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_removed_where_a_manifest_cannot_be_read() {
    on_every_store(async |ground| {
        for round in 1..=3 {
            published(&ground.folder, place(round), &[cut("parameters", round, 10)]).await;
        }
        let newer = br#"{"version": 2, "writtenBy": "atoll 9.1"}"#;
        let name = format!("checkpoints/{}.json", place(4));
        ground.folder.store().put(&name, &[newer[..].into()]).await.unwrap();
        let said = Sweeper::new(ground.folder.clone(), "collector").sweep(&LAST).await.unwrap_err().to_string();
        assert!(said.contains(&name) && said.ends_with("; atoll 9.1 wrote it; use the program that wrote it"), "{said}");
        assert_eq!(ground.folder.entries().await.unwrap().len(), 4);
        assert_eq!(ground.folder.store().list("shards", None).await.unwrap().len(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_damaged_manifest_that_is_kept_no_longer_goes_with_what_it_named() {
    on_every_store(async |ground| {
        for round in 1..=3 {
            published(&ground.folder, place(round), &[cut("parameters", round, 10)]).await;
        }
        let name = format!("checkpoints/{}.json", place(2));
        ground.folder.store().put(&name, &[br#"{"version": 1, "#[..].into()]).await.unwrap();
        let swept = Sweeper::new(ground.folder.clone(), "collector").sweep(&LAST).await.unwrap();
        assert_eq!(swept.checkpoints, [place(1), place(2)].into());
        assert_eq!(ground.folder.store().list("shards", None).await.unwrap().len(), 1);
    })
    .await;
}
