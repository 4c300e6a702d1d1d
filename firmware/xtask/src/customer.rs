//! A customer: logs in at the portal, stages, downloads; all with curl, as a person's script would.

use crate::access::Access;
use crate::local::{run_with_input, succeed};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A page that the portal answered.
#[derive(Debug, Clone)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// The page itself.
    pub body: String,
}

impl Page {
    /// The text of the element with this id.
    pub fn text(&self, id: &str) -> Option<String> {
        let after = self.body.split_once(&format!("id=\"{id}\""))?.1;
        let (_, text) = after.split_once('>')?;
        Some(unescape(text.split('<').next()?).trim().to_owned())
    }

    /// An attribute of the element with this id, which must follow the id.
    pub fn attribute(&self, id: &str, name: &str) -> Option<String> {
        let after = self.body.split_once(&format!("id=\"{id}\""))?.1;
        let tag = after.split('>').next()?;
        let value = tag.split_once(&format!("{name}=\""))?.1;
        Some(unescape(value.split('"').next()?))
    }

    fn csrf(&self) -> Option<String> {
        let after = self.body.split_once("name=\"csrf\" value=\"")?.1;
        Some(unescape(after.split('"').next()?))
    }
}

fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (entity, c) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&#x2F;", "/")]
    {
        out = out.replace(entity, c);
    }
    out.replace("&amp;", "&")
}

/// What the page after staging says.
#[derive(Debug, Clone)]
pub struct Staged {
    /// The lease.
    pub lease: String,
    /// The link with user, secret, host, port and path.
    pub link: String,
    /// The user of the one-time lease.
    pub user: String,
    /// Its secret.
    pub password: String,
    /// The name of the file.
    pub file: String,
    /// The path in the customer's own account.
    pub account_path: String,
    /// The SHA-256 that the object has.
    pub sha256: String,
}

/// A customer with a cookie jar.
#[derive(Debug)]
pub struct Customer {
    url: String,
    ca: PathBuf,
    jar: PathBuf,
}

impl Customer {
    /// A browser of a portal with nothing in it yet; `jar` is a file for its cookies.
    pub fn new(url: &str, ca: &Path, jar: &Path) -> Self {
        // A jar of an earlier customer would be a session of his.
        let _ = fs::remove_file(jar);
        Self { url: url.into(), ca: ca.into(), jar: jar.into() }
    }

    fn get_or_post(&self, path: &str, form: &[(&str, &str)]) -> Result<Page> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "120", "--write-out", "\n%{http_code}"])
            .arg("--cacert")
            .arg(&self.ca)
            .arg("--cookie-jar")
            .arg(&self.jar)
            .arg("--cookie")
            .arg(&self.jar);
        let mut body = String::new();
        if !form.is_empty() {
            for (name, value) in form {
                body.push_str(&format!("{}{name}={}", if body.is_empty() { "" } else { "&" }, percent(value)));
            }
            curl.args(["--data-binary", "@-"]);
        }
        let output = run_with_input(curl.arg(format!("{}{path}", self.url)), &body)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').context("curl said nothing")?;
        Ok(Page { status: status.trim().parse()?, body: body.to_owned() })
    }

    /// Logs in; the page is what follows.
    ///
    /// # Errors
    /// When the portal cannot be reached.
    pub fn login(&self, user: &str, password: &str) -> Result<Page> {
        let page = self.get_or_post("/login", &[("user", user), ("password", password)])?;
        if page.status == 303 { self.downloads() } else { Ok(page) }
    }

    /// The list of what there is for him.
    ///
    /// # Errors
    /// When the portal cannot be reached.
    pub fn downloads(&self) -> Result<Page> {
        self.get_or_post("/downloads", &[])
    }

    /// Chooses something; the page is what follows.
    ///
    /// # Errors
    /// When the portal cannot be reached.
    pub fn choose(&self, product: &str, version: &str) -> Result<Page> {
        self.choose_with(&self.csrf()?, product, version)
    }

    /// What the pages of his session carry in every form; empty without a session.
    ///
    /// # Errors
    /// When the portal cannot be reached.
    pub fn csrf(&self) -> Result<String> {
        Ok(self.downloads()?.csrf().unwrap_or_default())
    }

    /// Chooses something from a page that he has already.
    ///
    /// # Errors
    /// When the portal cannot be reached.
    pub fn choose_with(&self, csrf: &str, product: &str, version: &str) -> Result<Page> {
        self.get_or_post("/stage", &[("product", product), ("version", version), ("csrf", csrf)])
    }

    /// Chooses something that he may have.
    ///
    /// # Errors
    /// When it was refused, or the page does not say what it should.
    pub fn stage(&self, product: &str, version: &str) -> Result<Staged> {
        let page = self.choose(product, version)?;
        if page.status != 200 {
            bail!("the portal answered {} to the choice of {product} {version}", page.status);
        }
        let text = |id: &str| page.text(id).with_context(|| format!("the page has no {id}"));
        Ok(Staged {
            lease: text("lease")?,
            link: page.attribute("ftp-link", "href").context("the page has no ftp link")?,
            user: text("ftp-user")?,
            password: text("ftp-password")?,
            file: text("file")?,
            account_path: text("account-path")?,
            sha256: text("sha256")?,
        })
    }
}

/// How a download goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ftp {
    /// Everything in clear.
    Clear,
    /// Under TLS, control and data.
    Tls,
}

/// Downloads a file by ftp.
///
/// # Errors
/// When curl fails; its exit code and message are in the error.
pub fn download(site: &Access, ftp: Ftp, user: &str, password: &str, path: &str, to: &Path) -> Result<()> {
    let (host, port) = site.ftp();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "600", "--config", "-"]);
    if ftp == Ftp::Tls {
        curl.args(["--ssl-reqd", "--cacert"]).arg(site.ca());
    }
    // An absolute path has its first slash encoded (RFC 1738, 3.2.2); curl sends the rest as it is.
    let url = format!(
        "ftp://{host}:{port}/{}",
        path.trim_start_matches('/').split('/').map(percent).collect::<Vec<_>>().join("/")
    );
    curl.arg("--output").arg(to).arg(url);
    // By standard input, since arguments are seen by everybody.
    let quoted = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"");
    run_with_input(&mut curl, &format!("user = \"{}:{}\"\n", quoted(user), quoted(password)))?;
    Ok(())
}

/// Downloads what was staged, by the one-time lease.
///
/// # Errors
/// When curl fails.
pub fn download_staged(site: &Access, ftp: Ftp, staged: &Staged, to: &Path) -> Result<()> {
    download(site, ftp, &staged.user, &staged.password, &staged.file, to)
}

/// The SHA-256 of a file, in hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut hash, mut block) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}

/// Percent-encoding of everything but RFC 3986's unreserved characters.
pub fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The version of curl, for the record.
///
/// # Errors
/// When it cannot be run.
pub fn curl_version() -> Result<String> {
    let output = succeed(Command::new("curl").arg("--version"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_read() {
        let body = r#"<a class="x" id="ftp-link" href="ftp://a&amp;b">go</a><code id="file">a &lt;b&gt; &#39;c</code>
            <input type="hidden" name="csrf" value="tok"> <pre id="curl">curl --fail</pre>"#;
        let page = Page { status: 200, body: body.into() };
        assert_eq!(page.attribute("ftp-link", "href").as_deref(), Some("ftp://a&b"));
        assert_eq!(page.text("file").as_deref(), Some("a <b> 'c"));
        assert_eq!(page.csrf().as_deref(), Some("tok"));
        assert_eq!(page.text("nothing"), None);
    }

    #[test]
    fn percent_encoding() {
        assert_eq!(percent("a b/ä~"), "a%20b%2F%C3%A4~");
    }
}
