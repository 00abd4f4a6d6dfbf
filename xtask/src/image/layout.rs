//! An image as an OCI image layout in one tar file, which containerd, kind, Docker and Podman load.
//!
//! <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>

use std::{collections::BTreeMap, io};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::Layer;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Whom programs run as: nobody that a machine knows.
pub(super) const USER: u32 = 65532;

/// What an image is made of.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// Registry, repository and tag, such as `registry.local/atoll-sidecar:dev`.
    pub(super) reference: String,
    /// Path of the program in it, with a leading slash.
    pub(super) entrypoint: String,
    /// Labels of the configuration, and annotations of the manifest.
    pub(super) labels: BTreeMap<String, String>,
    /// From the lowest.
    pub(super) layers: Vec<Layer>,
}

/// An image as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Of the manifest: what `image@digest` names.
    pub(super) digest: String,
    pub(super) tar: Vec<u8>,
}

impl Image {
    /// Writes it out; the same image is the same bytes.
    pub(super) fn layout(&self) -> io::Result<Layout> {
        let tars = self.layers.iter().map(Layer::tar).collect::<io::Result<Vec<_>>>()?;
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": format!("{USER}:{USER}"),
                "Entrypoint": [self.entrypoint],
                "Env": ["PATH=/", "HOME=/tmp"],
                "WorkingDir": "/",
                "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": tars.iter().map(|tar| digest(tar)).collect::<Vec<_>>()},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(CONFIG, &config),
            "layers": tars.iter().map(|tar| described(TAR, tar)).collect::<Vec<_>>(),
            "annotations": self.labels,
        });
        let manifest = manifest.to_string().into_bytes();
        let mut layout = Layer::default();
        layout.file("oci-layout", 0o644, json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes());
        layout.file("index.json", 0o644, self.index(&manifest).to_string().into_bytes());
        let digest = digest(&manifest);
        for blob in tars.into_iter().chain([config, manifest]) {
            layout.file(&format!("blobs/sha256/{}", hexadecimal(&blob)), 0o644, blob);
        }
        Ok(Layout { digest, tar: layout.tar()? })
    }

    fn index(&self, manifest: &[u8]) -> Value {
        let mut described = described(MANIFEST, manifest);
        described["platform"] = json!({"architecture": "amd64", "os": "linux"});
        let tag = self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        described["annotations"] = json!({"io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": tag});
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]})
    }
}

fn described(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// `sha256:` and the hash.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image(content: &[u8]) -> Image {
        let (mut base, mut program) = (Layer::default(), Layer::default());
        base.folder("tmp", 0o1777);
        program.file("atoll", 0o755, content.to_vec());
        Image {
            reference: "registry.local:5000/atoll-sidecar:dev".into(),
            entrypoint: "/atoll".into(),
            labels: BTreeMap::from([("org.opencontainers.image.title".into(), "Atoll sidecar".into())]),
            layers: vec![base, program],
        }
    }

    fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.collect()
    }

    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, described: &Value) -> &'a [u8] {
        let named = described["digest"].as_str().unwrap();
        let bytes = &files[&format!("blobs/{}", named.replace(':', "/"))];
        assert_eq!(digest(bytes), named);
        assert_eq!(described["size"], bytes.len());
        bytes
    }

    #[test]
    fn every_blob_has_the_digest_and_size_that_name_it() {
        let layout = image(b"program").layout().unwrap();
        let files = files(&layout.tar);
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let named = &index["manifests"][0];
        assert_eq!(named["digest"], layout.digest);
        assert_eq!(named["annotations"]["io.containerd.image.name"], "registry.local:5000/atoll-sidecar:dev");
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "dev");
        let manifest: Value = serde_json::from_slice(blob(&files, named)).unwrap();
        let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
        let layers: Vec<&[u8]> = manifest["layers"].as_array().unwrap().iter().map(|layer| blob(&files, layer)).collect();
        let unpacked: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        assert_eq!(config["rootfs"]["diff_ids"], json!(unpacked));
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Labels"], manifest["annotations"]);
        assert_eq!(self::files(layers[1])["atoll"], b"program");
        assert_eq!(files.len(), 2 + 4 + 2, "two texts, four blobs, two folders");
    }

    #[test]
    fn the_same_image_is_the_same_bytes_and_another_is_not() {
        assert_eq!(image(b"program").layout().unwrap(), image(b"program").layout().unwrap());
        assert_ne!(image(b"program").layout().unwrap().digest, image(b"Program").layout().unwrap().digest);
    }

    #[test]
    fn a_digest_is_that_of_the_standard() {
        assert_eq!(digest(b"abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
