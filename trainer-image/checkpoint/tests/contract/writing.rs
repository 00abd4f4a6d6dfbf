use super::ground::{cut, files, on_every_store, place, published, written};
use atoll_checkpoint::write::{Cut, Writer};

#[tokio::test]
async fn what_is_written_is_read_again() {
    on_every_store(async |ground| {
        // Large enough to go in parts where the store takes parts.
        let cuts = [cut("parameters", 1, 3_000_000), cut("outerMomentum", 2, 10)];
        let manifest = published(&ground.folder, place(3), &cuts).await;
        let read = ground.folder.manifest(place(3)).await.unwrap();
        assert_eq!(read, manifest);
        for (vector, cut) in read.replicated.iter().zip(&cuts) {
            let mut values = Vec::new();
            for piece in &vector.pieces {
                values.extend(ground.folder.values(vector.element_type, piece).await.unwrap());
            }
            assert_eq!(values, cut.values, "{}", vector.name);
        }
        assert_eq!(ground.folder.check(&manifest, |_, _| ()).await, []);
    })
    .await;
}

#[tokio::test]
async fn unchanged_shards_are_never_written_twice() {
    on_every_store(async |ground| {
        let same = cut("parameters", 1, 100_000);
        published(&ground.folder, place(1), &[same.clone(), cut("outerMomentum", 1, 10)]).await;
        let before = ground.folder.store().traffic().bytes_written();
        // The same values under another name are the same shard, too.
        let again = Cut { name: "other".into(), ..same.clone() };
        published(&ground.folder, place(2), &[same, again, cut("outerMomentum", 2, 10)]).await;
        let more = ground.folder.store().traffic().bytes_written() - before;
        assert!(more < 10_000, "{more} bytes");
    })
    .await;
}

#[tokio::test]
async fn a_checkpoint_is_not_there_before_its_manifest() {
    on_every_store(async |ground| {
        let manifest = written(&ground.folder, place(1), &[cut("parameters", 1, 100)]).await;
        assert_eq!(ground.folder.newest().await.unwrap(), None);
        assert_eq!(ground.folder.newest_whole(|_, _| ()).await.unwrap().manifest, None);
        ground.folder.publish(&manifest).await.unwrap();
        assert_eq!(ground.folder.newest().await.unwrap(), Some(place(1)));
    })
    .await;
}

#[tokio::test]
async fn a_damaged_shard_that_is_needed_again_is_mended_and_with_it_all_that_name_it() {
    on_every_store(async |ground| {
        let Some(folder) = &ground.files else { return };
        let same = cut("parameters", 1, 100);
        let first = published(&ground.folder, place(1), std::slice::from_ref(&same)).await;
        let file = folder.join(atoll_checkpoint::folder::shard_name(&first.replicated[0].pieces[0].shard));
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[200] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(ground.folder.check(&first, |_, _| ()).await.len(), 1);
        published(&ground.folder, place(2), &[same]).await;
        assert_eq!(ground.folder.check(&first, |_, _| ()).await, []);
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_broke_off_is_written_again() {
    on_every_store(async |ground| {
        let Some(folder) = &ground.files else { return };
        let manifest = written(&ground.folder, place(1), &[cut("parameters", 1, 100)]).await;
        let name = atoll_checkpoint::folder::shard_name(&manifest.replicated[0].pieces[0].shard);
        std::fs::write(folder.join(&name), b"half").unwrap();
        let writer = Writer::new(ground.folder.clone(), "another");
        writer.write(files(&[cut("parameters", 1, 100)])).await.unwrap();
        assert_eq!(ground.folder.check(&manifest, |_, _| ()).await, []);
    })
    .await;
}
