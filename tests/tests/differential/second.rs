//! The verdict of the second implementation: one process, a line of JSON a case, a line of JSON an answer.

use crate::cases::Case;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What it says.
pub(crate) struct Answer {
    /// `None`: accepted, by the rules that both implementations judge from these bytes alone.
    pub(crate) verdict: Option<(String, String)>,
    /// Refused by the rules, too, that this implementation judges in a replay.
    pub(crate) deep: bool,
}

pub(crate) struct Second {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

impl Second {
    pub(crate) fn start() -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-B", "-u"]).arg(folder("tests/verifier/differential.py"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    /// Asks; the answer is there while the caller does something else.
    pub(crate) fn ask(&mut self, case: &Case, export: &Path) {
        let hex =
            |leaves: &[Vec<u8>]| -> Vec<String> { leaves.iter().map(|leaf| HEXLOWER.encode(leaf)).collect() };
        let asked = match case {
            Case::Log { bundle, .. } => json!({ "bundle": bundle, "export": export }),
            Case::Leaf(bytes) | Case::Inputs(bytes) | Case::Evidence(bytes) => {
                json!({ "hex": HEXLOWER.encode(bytes) })
            }
            Case::Head { bundle, control, text } | Case::Receipt { bundle, control, text } => {
                json!({ "bundle": bundle, "control": hex(control), "text": text })
            }
            Case::Bundle(text) => json!({ "text": text }),
            Case::Feed { bundle, page } => json!({ "bundle": bundle, "page": page }),
        };
        let mut asked = asked;
        asked["what"] = json!(case.kind());
        let to = self.to.as_mut().unwrap();
        writeln!(to, "{asked}").unwrap();
        to.flush().unwrap();
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).expect("the second implementation has ended");
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        Answer {
            verdict: text("code").map(|code| (code, text("detail").unwrap_or_default())),
            deep: answer["deep"].as_bool().unwrap(),
        }
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        drop(self.to.take());
        drop(self.child.wait());
    }
}
