//! Images of the product's programs, and of what pods of the lab run: from scratch, reproducible, made without a container engine.

mod bill;
#[cfg(test)]
mod dockerfiles;
mod layer;
mod layout;
mod program;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use pem::{EncodeConfig, LineEnding, Pem};

use crate::{paths, process::output, tally::Tally};
use layer::Layer;
use layout::{Image, Layout, USER};

/// The one reference that containerd's configuration in the lab names.
const PAUSE: &str = "registry.local/pause:1";
const DOCUMENTS: &str = "usr/share/doc/atoll";
const LIMIT: Duration = Duration::from_secs(30);

/// An image that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// What runs in the hub and in members
    Operator,
    /// The process beside a trainer that owns the network
    Sidecar,
    /// The trainer that comes with Atoll, on CPUs
    Trainer,
    /// Process 1 of the lab's pods
    Pause,
    /// What the lab's own checks run in pods
    Probe,
}

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Which images; those of the product when none is named
    #[arg(value_enum, default_values = ["operator", "sidecar", "trainer"])]
    names: Vec<Name>,
    /// First part of the references
    #[arg(long, default_value = "registry.local")]
    registry: String,
    /// Last part of the references
    #[arg(long, default_value = "dev")]
    tag: String,
    /// Profile that the programs are built with
    #[arg(long, default_value = "release")]
    profile: String,
    /// Make each image twice from the same program, and compare
    #[arg(long)]
    check: bool,
}

impl Name {
    fn word(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Sidecar => "sidecar",
            Self::Trainer => "trainer",
            Self::Pause => "pause",
            Self::Probe => "probe",
        }
    }

    /// The source of a program that is one file, and no package.
    fn file(self) -> Option<&'static str> {
        match self {
            Self::Operator | Self::Sidecar | Self::Trainer => None,
            Self::Pause => Some("e2e/cluster/pause.rs"),
            Self::Probe => Some("e2e/cluster/probe.rs"),
        }
    }

    fn program(self) -> String {
        format!("atoll-{}", self.word())
    }

    fn reference(self, registry: &str, tag: &str) -> String {
        if self == Self::Pause { PAUSE.to_owned() } else { format!("{registry}/{}:{tag}", self.program()) }
    }
}

/// Makes the images that are asked for, in `target/images`.
pub(crate) fn perform(arguments: &Arguments) -> Result<Tally> {
    let start = Instant::now();
    let folder = paths::target().join("images");
    let mut tally = Tally::default();
    let mut said = Vec::new();
    for &name in &arguments.names {
        let program = built(name, &arguments.profile)?;
        let image = image(name, &program, &name.reference(&arguments.registry, &arguments.tag))?;
        let layout = image.layout()?;
        let same = !arguments.check || layout == self::image(name, &program, &image.reference)?.layout()?;
        tally += Tally::of(same);
        let file = folder.join(format!("{}.tar", name.word()));
        write(&file, &layout)?;
        println!("{} {} in {}", image.reference, layout.digest, file.display());
        let megabytes = layout.tar.len() as f64 / 1e6;
        let differs = if same { "" } else { " DIFFERS WHEN MADE AGAIN" };
        said.push(format!("{} {megabytes:.1} MB {}{differs}", name.word(), layout.digest));
    }
    let checked = if arguments.check { ", each made twice" } else { "" };
    println!("image: {}{checked}, {:.1} s", said.join(", "), start.elapsed().as_secs_f64());
    Ok(tally)
}

/// Makes what the lab's own pods run, in a folder.
pub(crate) fn for_lab(folder: &Path) -> Result<()> {
    for name in [Name::Pause, Name::Probe] {
        let image = image(name, &built(name, "release")?, &name.reference("registry.local", "dev"))?;
        write(&folder.join(format!("{}.tar", name.word())), &image.layout()?)?;
    }
    Ok(())
}

fn built(name: Name, profile: &str) -> Result<PathBuf> {
    match name.file() {
        Some(source) => program::of_file(name.word(), source),
        None => program::of_package(&name.program(), profile),
    }
}

/// Writes a tar, unless the same is there: what is newer is taken to every node of the lab again.
fn write(file: &Path, layout: &Layout) -> Result<()> {
    if fs::read(file).is_ok_and(|before| before == layout.tar) {
        return Ok(());
    }
    let context = || format!("cannot write {}", file.display());
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(context)?;
    let permissions = fs::Permissions::from_mode(0o644);
    let temporary = tempfile::Builder::new().permissions(permissions).tempfile_in(folder).with_context(context)?;
    fs::write(temporary.path(), &layout.tar).with_context(context)?;
    temporary.persist(file).with_context(context)?;
    Ok(())
}

fn image(name: Name, program: &Path, reference: &str) -> Result<Image> {
    let entrypoint = format!("/{}", name.program());
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    let bill = match name.file() {
        Some(_) => bill::of_program(&name.program(), version),
        None => bill::of_package(&name.program(), &fs::read_to_string(paths::root().join("Cargo.lock"))?)?,
    };
    let mut labels: BTreeMap<String, String> = BTreeMap::from([
        ("org.opencontainers.image.title".into(), name.program()),
        ("org.opencontainers.image.version".into(), version.into()),
        ("org.opencontainers.image.licenses".into(), "Apache-2.0".into()),
        ("org.opencontainers.image.source".into(), env!("CARGO_PKG_REPOSITORY").into()),
        ("dev.atoll.sbom".into(), layout::digest(&bill)),
    ]);
    labels.extend(revision().map(|revision| ("org.opencontainers.image.revision".into(), revision)));
    let mut own = Layer::default();
    own.file(entrypoint.trim_start_matches('/'), 0o755, bytes);
    own.file(&format!("{DOCUMENTS}/sbom.json"), 0o644, bill);
    Ok(Image { reference: reference.to_owned(), entrypoint, labels, layers: vec![base()?, own] })
}

/// What every image has below its program.
fn base() -> Result<Layer> {
    let mut base = Layer::default();
    base.folder("tmp", 0o1777);
    let users = format!("root:x:0:0:root:/:/none\natoll:x:{USER}:{USER}:atoll:/tmp:/none\n");
    base.file("etc/passwd", 0o644, users.into_bytes());
    base.file("etc/group", 0o644, format!("root:x:0:\natoll:x:{USER}:\n").into_bytes());
    base.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    base.file("etc/ssl/certs/ca-certificates.crt", 0o644, authorities().into_bytes());
    base.file(&format!("{DOCUMENTS}/LICENSE"), 0o644, fs::read(paths::root().join("LICENSE"))?);
    Ok(base)
}

/// Mozilla's authorities, whom clients of object stores trust.
fn authorities() -> String {
    let certificates = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    let certificates: Vec<Pem> = certificates.map(|certificate| Pem::new("CERTIFICATE", certificate.as_ref())).collect();
    pem::encode_many_config(&certificates, EncodeConfig::new().set_line_ending(LineEnding::LF))
}

/// The commit, marked when files differ from it; none outside of a git checkout.
fn revision() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]).current_dir(paths::root());
    let said = output("git describe", &mut git, LIMIT).ok()?;
    Some(said.trim().to_owned()).filter(|revision| !revision.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_registry_and_tag_and_pause_is_what_the_lab_names() {
        assert_eq!(Name::Sidecar.reference("registry.local", "dev"), "registry.local/atoll-sidecar:dev");
        let configuration = fs::read_to_string(paths::root().join("e2e/cluster/config/containerd.toml")).unwrap();
        assert!(configuration.contains(&Name::Pause.reference("other", "2")));
    }

    #[test]
    fn an_image_has_its_program_a_user_who_is_not_root_and_authorities() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "program").unwrap();
        let image = image(Name::Probe, &program, "registry.local/atoll-probe:dev").unwrap();
        assert_eq!(image.entrypoint, "/atoll-probe");
        assert_eq!(image.labels["org.opencontainers.image.licenses"], "Apache-2.0");
        assert!(image.labels["dev.atoll.sbom"].starts_with("sha256:"));
        assert!(authorities().matches("-----BEGIN CERTIFICATE-----\n").count() > 100);
        let first = image.layout().unwrap();
        assert_eq!(first, self::image(Name::Probe, &program, "registry.local/atoll-probe:dev").unwrap().layout().unwrap());
        let file = folder.path().join("images/probe.tar");
        write(&file, &first).unwrap();
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        write(&file, &first).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
    }
}
