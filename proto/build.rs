//! Generates the messages and services from the .proto files, without protoc.

/// The service for trainers, in whatever language: its messages are plain protocol buffers, and never leave the machine.
const SEAM: &str = "Sidecar";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["run", "session", "arbiter", "sidecar", "state", "recovery", "hub"].map(|name| format!("proto/atoll/v1/{name}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["proto"])?;
    let services = |seam: bool| {
        let mut descriptors = descriptors.clone();
        for file in &mut descriptors.file {
            file.service.retain(|service| (service.name() == SEAM) == seam);
        }
        descriptors
    };
    tonic_prost_build::configure()
        .codec_path("crate::checked::Checked")
        .type_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .field_attribute("atoll.v1.Contribution.loss", "#[serde(with = \"crate::exact\")]")
        .type_attribute("atoll.v1.Ballot", "#[derive(PartialOrd, Ord)]")
        .compile_fds(services(false))?;
    let folder = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("seam");
    std::fs::create_dir_all(&folder)?;
    tonic_prost_build::configure().extern_path(".atoll.v1", "crate::v1").out_dir(folder).compile_fds(services(true))?;
    Ok(())
}
