//! A person's editor: a text goes out to it in a file of its own, and comes back.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use uuid::Uuid;

use super::out::{CliError, Exit, Out};
use super::pick::{ask, can_ask};
use crate::json::Violation;

/// A text under edit: a file in a folder that only its owner can read, gone with this value.
pub struct Draft {
    folder: PathBuf,
    file: PathBuf,
    keep: bool,
}

impl Draft {
    /// A draft that holds `text`, in a file of this name (its ending tells editors the language).
    ///
    /// # Errors
    /// When it can't be written.
    pub fn new(name: &str, text: &[u8]) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("presswork-{}", Uuid::new_v4()));
        let mut maker = std::fs::DirBuilder::new();
        maker
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("can't make {} for the edit", folder.display()))?;
        let draft = Self {
            file: folder.join(name),
            folder,
            keep: false,
        };
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .mode(0o600)
            .write(true)
            .create_new(true)
            .open(&draft.file)?;
        file.write_all(text)?;
        Ok(draft)
    }

    /// Opens it in the editor, waits for that to end, and returns the text that is there then.
    ///
    /// # Errors
    /// When there is no editor, it fails, or it leaves nothing that can be read.
    pub async fn edit(&self) -> anyhow::Result<Vec<u8>> {
        let editor = editor()?;
        // as git does: the variable may hold arguments, and the shell knows how to split them
        let status = tokio::process::Command::new("sh")
            .args(["-c", &format!("{editor} \"$1\""), "sh"])
            .arg(&self.file)
            .status()
            .await
            .with_context(|| format!("the editor `{editor}` can't be started"))?;
        if !status.success() {
            bail!("the editor `{editor}` failed ({status}); nothing was changed");
        }
        std::fs::read(&self.file)
            .with_context(|| format!("the editor `{editor}` left no {}", self.file.display()))
    }

    /// Leaves the file behind, so that a person's work isn't lost, and says where.
    pub fn keep(mut self) -> PathBuf {
        self.keep = true;
        self.file.clone()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.keep
            && let Err(e) = std::fs::remove_dir_all(&self.folder)
        {
            tracing::warn!("{} stays behind: {e}", self.folder.display());
        }
    }
}

/// Edits a text until `check` takes it. What is wrong is shown each time; without a person to ask it
/// is an error at once.
///
/// # Errors
/// When the editor fails, or the text can't be taken and isn't edited again; it is kept then.
pub async fn until_right<T>(
    out: &Out,
    draft: Draft,
    check: impl Fn(&[u8]) -> Result<T, Vec<Violation>>,
) -> Result<T, CliError> {
    loop {
        let text = draft
            .edit()
            .await
            .map_err(|e| CliError::failed(format!("{e:#}")))?;
        let wrong = match check(&text) {
            Ok(it) => return Ok(it),
            Err(wrong) => CliError::violations("what was written can't be accepted", &wrong),
        };
        if can_ask(out) {
            out.error(&wrong);
            if ask("edit it again?")? {
                continue;
            }
            let kept = draft.keep();
            return Err(CliError::new(
                Exit::Usage,
                format!(
                    "nothing was changed; your text is kept in {}",
                    kept.display()
                ),
            ));
        }
        return Err(wrong);
    }
}

/// `$VISUAL`, `$EDITOR`, or what this machine has, where there is a terminal to show it on.
fn editor() -> anyhow::Result<String> {
    for name in ["VISUAL", "EDITOR"] {
        if let Ok(said) = std::env::var(name)
            && !said.trim().is_empty()
        {
            return Ok(said);
        }
    }
    let there = ["nano", "vi"].into_iter().find(|it| on_path(it));
    match there {
        Some(it) if std::io::stdin().is_terminal() => Ok(it.to_owned()),
        _ => bail!("there is no editor: set EDITOR to the command of one, such as EDITOR=nano"),
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|it| Path::new(&it).join(program).is_file())
}
