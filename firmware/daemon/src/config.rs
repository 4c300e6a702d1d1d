//! Configuration files: TOML, strict.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what the daemon expects.
    #[error("the configuration {path} is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// Reads a configuration. Types should `deny_unknown_fields`, so that a typing error is not a silent default.
///
/// # Errors
/// [`ConfigError`] with the path and the reason.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        port: u16,
    }

    #[test]
    fn good_and_bad_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        assert!(load::<Sample>(&file).err().unwrap().to_string().contains("x.toml"));
        std::fs::write(&file, "port = 21").unwrap();
        assert_eq!(load::<Sample>(&file).unwrap().port, 21);
        for bad in ["prot = 21", "port = 21\nextra = 1", "port = 65536"] {
            std::fs::write(&file, bad).unwrap();
            assert!(matches!(load::<Sample>(&file), Err(ConfigError::Parse { .. })), "{bad}");
        }
    }
}
