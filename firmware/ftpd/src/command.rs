//! The command table, without I/O: what is to be done for a command in a given state of the session.
//!
//! Every command of RFC 959, 1123, 2228, 2389, 2428, 2640, 3659, 4217 and 7151 has a row, and what has none is unknown: libunftp never
//! sees a command that ends its session or writes.

use crate::path::without_options;
use tobj::Secret;

/// What the table has to know of the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct View {
    /// The control connection is under TLS.
    pub tls: bool,
    /// There is a certificate, so AUTH TLS works.
    pub tls_offered: bool,
    /// Neither login nor data in clear.
    pub tls_required: bool,
    /// USER was given.
    pub user: bool,
    /// The login succeeded.
    pub logged_in: bool,
    /// PBSZ was sent.
    pub buffer_size: bool,
    /// PROT P is in force.
    pub private: bool,
    /// EPSV ALL was sent.
    pub epsv_only: bool,
    /// The control connection runs over IPv6.
    pub ipv6: bool,
}

/// A question about one name, which libunftp answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// CWD and its relatives.
    Cwd,
    /// SIZE.
    Size,
    /// MDTM.
    Mdtm,
    /// MLST.
    Mlst,
    /// STAT of a name.
    Stat,
}

impl Query {
    /// The command as libunftp knows it.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Cwd => "CWD",
            Self::Size => "SIZE",
            Self::Mdtm => "MDTM",
            Self::Mlst => "MLST",
            Self::Stat => "STAT",
        }
    }
}

/// The three kinds of listing over a data connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// LIST.
    List,
    /// NLST.
    Nlst,
    /// MLSD.
    Mlsd,
}

impl Listing {
    /// The command as libunftp knows it.
    pub fn verb(self) -> &'static str {
        match self {
            Self::List => "LIST",
            Self::Nlst => "NLST",
            Self::Mlsd => "MLSD",
        }
    }
}

/// What a command leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This reply and nothing else.
    Reply(&'static str),
    /// 221 and the end.
    Quit,
    /// 234, then the handshake.
    StartTls,
    /// PBSZ 0.
    BufferSize,
    /// PROT: private or clear.
    Protection(bool),
    /// FEAT.
    Features,
    /// HELP.
    Help,
    /// USER with a name.
    User(String),
    /// PASS; none if the text can be nobody's password.
    Password(Option<Secret>),
    /// PWD.
    WorkingDirectory,
    /// OPTS MLST with its list.
    ChooseFacts(String),
    /// STAT without a name.
    Status,
    /// ABOR while nothing is under way.
    Abort,
    /// REST with an offset.
    Restart(u64),
    /// EPSV ALL.
    EpsvOnly,
    /// A passive port; true for EPSV.
    Listen(bool),
    /// A question about a name.
    Ask(Query, String),
    /// RETR.
    Retrieve(String),
    /// LIST, NLST or MLSD of a name, the working directory if it is empty.
    List(Listing, String),
    /// SITE SHA256 of a name.
    Digest(String),
    /// STOR and the like: 550, and what was prepared for a transfer is dropped.
    RefuseUpload,
}

/// Whether REST's offset survives this command. It is meant for the RETR that follows; clients put the port in between.
pub fn keeps_restart(verb: &str) -> bool {
    matches!(
        verb,
        "REST"
            | "PASV"
            | "EPSV"
            | "TYPE"
            | "MODE"
            | "STRU"
            | "PBSZ"
            | "PROT"
            | "NOOP"
            | "ALLO"
            | "STAT"
            | "SIZE"
            | "MDTM"
    )
}

/// The row for a command.
pub fn decide(verb: &str, argument: &str, view: View) -> Action {
    let upper = argument.to_ascii_uppercase();
    match (verb, upper.as_str()) {
        ("QUIT", _) => Action::Quit,
        ("NOOP", _) => Action::Reply("200 OK"),
        ("HELP", _) => Action::Help,
        ("SYST", _) => Action::Reply("215 UNIX Type: L8"),
        ("CLNT", _) => Action::Reply("200 Noted"),
        ("LANG", "" | "EN" | "EN-US") => Action::Reply("200 English"),
        ("LANG", _) => Action::Reply("504 Only English"),
        ("HOST", _) if view.user || view.logged_in => Action::Reply("503 HOST comes before USER"),
        ("HOST", "") => Action::Reply("501 Which host?"),
        ("HOST", _) => Action::Reply("220 Ready"),
        ("OPTS", "UTF8" | "UTF8 ON") => Action::Reply("200 Always in UTF-8"),
        ("FEAT", _) => Action::Features,
        ("AUTH" | "PBSZ" | "PROT" | "CCC", _) => security(verb, &upper, view),
        ("USER", "") => Action::Reply("501 Who?"),
        ("USER", _) if view.logged_in => Action::Reply("530 Logged in already"),
        ("USER" | "PASS", _) if view.tls_required && !view.tls => Action::Reply("530 AUTH TLS comes first"),
        ("USER", _) => Action::User(argument.to_owned()),
        ("PASS", _) if view.logged_in => Action::Reply("503 Logged in already"),
        ("PASS", _) if !view.user => Action::Reply("503 USER comes first"),
        ("PASS", _) => Action::Password(Secret::new(argument).ok().filter(|_| !argument.is_empty())),
        // There is no mechanism that would need them: TLS protects the whole connection.
        ("ADAT" | "MIC" | "CONF" | "ENC", _) => Action::Reply("500 Only with mechanisms other than TLS"),
        _ if is_known(verb) && !view.logged_in => Action::Reply("530 Log in first"),
        _ => with_login(verb, argument, &upper, view),
    }
}

/// RFC 2228 and 4217.
fn security(verb: &str, upper: &str, view: View) -> Action {
    match (verb, upper) {
        ("AUTH", "") => Action::Reply("501 Which mechanism?"),
        ("AUTH", _) if !view.tls_offered => Action::Reply("502 No TLS here"),
        ("AUTH", _) if view.tls || view.logged_in => Action::Reply("503 Too late"),
        ("AUTH", "TLS" | "TLS-C" | "SSL") => Action::StartTls,
        ("AUTH", _) => Action::Reply("504 TLS only"),
        ("PBSZ" | "PROT", _) if !view.tls => Action::Reply("503 AUTH TLS comes first"),
        ("PBSZ", "") => Action::Reply("501 Which size?"),
        ("PBSZ", size) if size.parse::<u32>().is_err() => Action::Reply("501 Not a size"),
        ("PBSZ", _) => Action::BufferSize,
        ("PROT", "") => Action::Reply("501 Which level?"),
        ("PROT", _) if !view.buffer_size => Action::Reply("503 PBSZ comes first"),
        ("PROT", "C") if view.tls_required => Action::Reply("534 Data in clear is not allowed"),
        ("PROT", "P") => Action::Protection(true),
        ("PROT", "C") => Action::Protection(false),
        ("PROT", "S" | "E") => Action::Reply("536 Only P and C"),
        ("PROT", _) => Action::Reply("504 Only P and C"),
        ("CCC", _) if view.tls => Action::Reply("533 The control connection stays private"),
        _ => Action::Reply("503 There is no TLS to end"),
    }
}

fn with_login(verb: &str, argument: &str, upper: &str, view: View) -> Action {
    let name = || argument.to_owned();
    match (verb, upper) {
        ("PWD" | "XPWD", _) => Action::WorkingDirectory,
        ("TYPE", "A" | "A N" | "I" | "L 8") => Action::Reply("200 All the same here"),
        ("STRU", "F") | ("MODE", "S") => Action::Reply("200 Always so"),
        ("TYPE" | "STRU" | "MODE", "") => Action::Reply("501 Which?"),
        ("TYPE" | "STRU" | "MODE", _) => Action::Reply("504 Not offered"),
        ("OPTS", "MLST") => Action::ChooseFacts(String::new()),
        ("OPTS", options) if options.starts_with("MLST ") => Action::ChooseFacts(argument[5..].to_owned()),
        ("OPTS", _) => Action::Reply("501 No such option"),
        ("ALLO" | "ACCT", _) => Action::Reply("202 Not needed"),
        ("ABOR", _) => Action::Abort,
        ("REST", _) => match offset(argument) {
            Some(offset) => Action::Restart(offset),
            None => Action::Reply("501 Not an offset"),
        },
        ("EPSV", "ALL") => Action::EpsvOnly,
        ("EPSV" | "PASV", _) if view.tls_required && !view.private => Action::Reply("521 PROT P comes first"),
        ("EPSV", "") => Action::Listen(true),
        ("EPSV", "1") if !view.ipv6 => Action::Listen(true),
        ("EPSV", "2") if view.ipv6 => Action::Listen(true),
        ("EPSV", _) if view.ipv6 => Action::Reply("522 Use (2)"),
        ("EPSV", _) => Action::Reply("522 Use (1)"),
        ("PASV", _) if view.epsv_only => Action::Reply("503 EPSV ALL was sent"),
        ("PASV", _) if view.ipv6 => Action::Reply("522 Use EPSV"),
        ("PASV", _) => Action::Listen(false),
        ("PORT" | "EPRT", _) => Action::Reply("502 Passive mode only"),
        ("STOR" | "STOU" | "APPE", _) => Action::RefuseUpload,
        ("DELE" | "MKD" | "XMKD" | "RMD" | "XRMD" | "RNFR" | "RNTO" | "MFMT" | "MFF" | "MFCT", _) => {
            Action::Reply("550 Read-only")
        }
        ("SITE", "HELP") => Action::Reply("214 SITE SHA256 name"),
        ("SITE", "SHA256") => Action::Reply("501 Which?"),
        ("SITE", asked) if asked.starts_with("SHA256 ") => Action::Digest(argument[7..].to_owned()),
        ("SITE" | "REIN" | "SMNT", _) => Action::Reply("502 Not offered"),
        ("STAT", "") => Action::Status,
        ("CDUP" | "XCUP", _) => Action::Ask(Query::Cwd, "..".to_owned()),
        ("CWD" | "XCWD" | "SIZE" | "MDTM" | "RETR", "") => Action::Reply("501 Which?"),
        ("CWD" | "XCWD", _) => Action::Ask(Query::Cwd, name()),
        ("SIZE", _) => Action::Ask(Query::Size, name()),
        ("MDTM", _) => Action::Ask(Query::Mdtm, name()),
        ("MLST", _) => Action::Ask(Query::Mlst, name()),
        ("STAT", _) => Action::Ask(Query::Stat, without_options(argument).to_owned()),
        ("RETR", _) => Action::Retrieve(name()),
        ("LIST", _) => Action::List(Listing::List, without_options(argument).to_owned()),
        ("NLST", _) => Action::List(Listing::Nlst, without_options(argument).to_owned()),
        ("MLSD", _) => Action::List(Listing::Mlsd, name()),
        _ => Action::Reply("500 Unknown command"),
    }
}

/// The commands that need a login. Others are unknown with and without one.
fn is_known(verb: &str) -> bool {
    [
        "ABOR", "ACCT", "ALLO", "APPE", "CDUP", "CWD", "DELE", "EPRT", "EPSV", "LIST", "MDTM", "MFCT", "MFF", "MFMT",
        "MKD", "MLSD", "MLST", "MODE", "NLST", "OPTS", "PASV", "PORT", "PWD", "REIN", "REST", "RETR", "RMD", "RNFR",
        "RNTO", "SITE", "SIZE", "SMNT", "STAT", "STOR", "STOU", "STRU", "TYPE", "XCUP", "XCWD", "XMKD", "XPWD", "XRMD",
    ]
    .contains(&verb)
}

/// A decimal offset that fits the file system's (RFC 3659 section 5): digits only, at most 2^63 − 1.
fn offset(argument: &str) -> Option<u64> {
    let digits = !argument.is_empty() && argument.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| argument.parse().ok())?.filter(|n| i64::try_from(*n).is_ok())
}

#[cfg(test)]
mod tests;
