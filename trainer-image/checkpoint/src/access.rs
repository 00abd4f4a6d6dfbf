//! How a store is reached: credentials, and what else an address does not say.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// What stores are opened with.
#[derive(Clone)]
pub struct Access {
    /// Names as in the environment (`AWS_ACCESS_KEY_ID`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_KEY`) and values.
    pub(crate) values: BTreeMap<String, String>,
    /// Where an S3 bucket is, if it is not Amazon's, as in `http://minio:9000`.
    pub endpoint: Option<String>,
    /// Region of an S3 bucket.
    pub region: Option<String>,
    /// Whether an S3 bucket is named in the path, and not in the host's name; unset, where there is an endpoint.
    pub path_style: Option<bool>,
    /// Most bits per second that are uploaded, in millions.
    pub most_mbps: Option<f64>,
    /// How long a request that fails is tried again.
    pub patience: Duration,
}

/// Beginnings of the names that are read of an environment.
const NAMES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
/// How long a request that fails is tried again, where nobody says.
const PATIENCE: Duration = Duration::from_mins(1);
/// Longest file that is read as a value.
const LONGEST_VALUE: u64 = 64 << 10;
/// Shorter values are no secrets, and would make messages unreadable.
const SHORTEST_SECRET: usize = 6;
/// Ends of the names whose values are no secrets: messages may repeat them.
const PUBLIC: [&str; 6] = ["REGION", "ENDPOINT", "ENDPOINT_URL", "ACCOUNT_NAME", "PROFILE", "ALLOW_HTTP"];

impl Default for Access {
    fn default() -> Self {
        let values = BTreeMap::new();
        Self { values, endpoint: None, region: None, path_style: None, most_mbps: None, patience: PATIENCE }
    }
}

impl Access {
    /// Credentials of this process's environment; for S3 where it has none, those of the file that Amazon's tools read.
    #[must_use]
    pub fn of_environment() -> Self {
        let named = |(name, _): &(String, String)| NAMES.iter().any(|start| name.starts_with(start));
        // What is no text is none of these.
        let texts = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let access = Self::default().with(texts.filter(named));
        let file = access.values.get("AWS_SHARED_CREDENTIALS_FILE").map(Into::into);
        let file = file.or_else(|| Some(std::env::home_dir()?.join(".aws/credentials")));
        let profile = access.values.get("AWS_PROFILE").map_or("default", String::as_str);
        let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let found = if access.values.contains_key("AWS_ACCESS_KEY_ID") { Vec::new() } else { of_profile(&text, profile) };
        access.with(found)
    }

    /// With these names and values, as in an environment.
    #[must_use]
    pub fn with(mut self, values: impl IntoIterator<Item = (String, String)>) -> Self {
        self.values.extend(values.into_iter().filter(|(_, value)| !value.is_empty()));
        self
    }

    /// With each file of `folder` as a value, as a Kubernetes Secret is mounted: named as in the environment.
    ///
    /// # Errors
    /// Names the folder or the file that cannot be read.
    pub fn with_folder(self, folder: &Path) -> Result<Self, String> {
        let unreadable = |path: &Path, error: std::io::Error| format!("cannot read credentials of {}: {error}", path.display());
        let mut values = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))? {
            let path = entry.map_err(|error| unreadable(folder, error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A mounted Secret has links to folders beside its files.
            let small = std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= LONGEST_VALUE);
            if small && NAMES.iter().any(|start| name.starts_with(start)) {
                let value = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
                values.push((name, value.trim_end_matches('\n').to_owned()));
            }
        }
        Ok(self.with(values))
    }

    /// The values whose names begin so.
    pub(crate) fn values(&self, start: &'static str) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().filter(move |(name, _)| name.starts_with(start)).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What no message may repeat, also as it is written in an address.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let public = |name: &str| PUBLIC.iter().any(|end| name.ends_with(end));
        let secret = self.values.iter().filter(|(name, value)| value.len() >= SHORTEST_SECRET && !public(name));
        let escaped = |value: &str| url::form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>();
        let mut secrets: Vec<_> = secret.flat_map(|(_, value)| [value.clone(), escaped(value)]).collect();
        // The longest first: one may be the beginning of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        secrets
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.values.keys().collect();
        formatter.debug_struct("Access").field("names", &names).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// The values of `[profile]` in a credentials file: lines of `name = value`.
fn of_profile(text: &str, profile: &str) -> Vec<(String, String)> {
    let mut inside = false;
    let mut values = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            inside = header.trim_end_matches(']').trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside && !line.starts_with(['#', ';'])) {
            values.push((name.trim().to_ascii_uppercase(), value.trim().to_owned()));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_of_a_credentials_file_is_read() {
        let text =
            "[other]\naws_access_key_id = no\n\n# mine\n[research]\naws_access_key_id = AK\naws_secret_access_key=s3=cr3t\n";
        let expected = [("AWS_ACCESS_KEY_ID", "AK"), ("AWS_SECRET_ACCESS_KEY", "s3=cr3t")];
        assert_eq!(of_profile(text, "research"), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(of_profile(text, "default"), []);
    }

    #[test]
    fn a_mounted_secret_gives_its_files_and_nothing_shows_them() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("AWS_SECRET_ACCESS_KEY"), "very/secret\n").unwrap();
        std::fs::write(folder.path().join("unrelated"), "x").unwrap();
        std::fs::create_dir(folder.path().join("AWS_FOLDER")).unwrap();
        let access = Access::default().with_folder(folder.path()).unwrap();
        assert_eq!(access.values("AWS_").collect::<Vec<_>>(), [("AWS_SECRET_ACCESS_KEY", "very/secret")]);
        assert_eq!(access.secrets(), ["very%2Fsecret", "very/secret"]);
        assert!(!format!("{access:?}").contains("very"));
        assert!(Access::default().with_folder(Path::new("/nowhere")).unwrap_err().contains("/nowhere"));
    }
}
