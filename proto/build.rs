//! Generates the messages and services from the .proto files, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["run", "session", "arbiter", "sidecar", "state", "recovery"].map(|name| format!("proto/atoll/v1/{name}.proto"));
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure()
        .type_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .field_attribute("atoll.v1.Contribution.loss", "#[serde(with = \"crate::exact\")]")
        .type_attribute("atoll.v1.Ballot", "#[derive(PartialOrd, Ord)]")
        .compile_fds(descriptors)?;
    Ok(())
}
