//! The commands that do not train.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{Ending, printed, read_file};

/// Arguments of `atoll validate`.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The TrainingRun file
    file: PathBuf,
    /// Override a field, as in `--set workers.target=2`
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = assignment)]
    overrides: Vec<(String, String)>,
}

/// `path=value`, split at the first `=`.
pub(crate) fn assignment(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("give PATH=VALUE, as in workers.target=2")?;
    Ok((path.to_owned(), value.to_owned()))
}

pub(crate) fn validate(arguments: &Validate) -> Ending {
    let text = match read_file(&arguments.file) {
        Ok(text) => text,
        Err(ending) => return ending,
    };
    match atoll_crds::load(&arguments.file, &text, &arguments.overrides) {
        Ok(run) => {
            let mut text =
                format!("{}: TrainingRun {} is valid; its data is read when it runs\n", arguments.file.display(), run.name);
            for path in &run.unused {
                text += path;
                text += ": used on a cluster only\n";
            }
            printed(&text)
        }
        Err(problems) => Ending::bad_input(&problems),
    }
}

pub(crate) fn version() -> Ending {
    printed(concat!("atoll ", env!("CARGO_PKG_VERSION"), "\n"))
}

pub(crate) fn completions<C: CommandFactory>(shell: Shell) -> Ending {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut C::command(), "atoll", &mut script);
    printed(&String::from_utf8_lossy(&script))
}
