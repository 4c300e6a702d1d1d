//! The pages. maud escapes whatever is put into them.
//!
//! The ids on the staged page and the names of form fields are an interface: scripts and tests read them.

use super::views::{Listing, Staged, Until};
use super::{Problem, Wanted};
use crate::links::encode;
use axum::response::Html;
use maud::{DOCTYPE, Markup, html};

/// What a link or a password of a lease is good for.
const ONE_FILE: &str = "User and password are yours alone and good for this one file: once it has been fetched in full, or at the time below, \
                        they end.";

/// The style sheet.
pub(crate) const STYLE: &str = include_str!("style.css");

/// Who is logged in and what his forms carry.
#[derive(Clone, Copy)]
struct Signed<'a> {
    customer: &'a str,
    csrf: &'a str,
}

fn page(title: &str, signed: Option<Signed<'_>>, content: &Markup) -> Html<String> {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="stylesheet" href="/style.css";
            }
            body {
                header {
                    p { a href="/" { "Downloads" } }
                    @if let Some(Signed { customer, csrf }) = signed {
                        form id="logout" method="post" action="/logout" {
                            span { "Logged in as " strong id="customer" { (customer) } }
                            input type="hidden" name="csrf" value=(csrf);
                            button type="submit" { "Log out" }
                        }
                    }
                }
                main {
                    h1 { (title) }
                    (content)
                }
            }
        }
    };
    Html(markup.into_string())
}

/// The login form, with a message where there was a problem. Who has come for a product gets there by it.
pub(crate) fn login(problem: Option<Problem>, wanted: &Wanted) -> Html<String> {
    let content = html! {
        @if let Some(problem) = problem {
            p #message role="alert" { (problem.message()) }
        }
        form id="login" method="post" action=(wanted.at("/login")) {
            label for="user" { "Name" }
            input id="user" name="user" type="text" autocomplete="username" autocapitalize="none" spellcheck="false" required;
            label for="password" { "Password" }
            input id="password" name="password" type="password" autocomplete="current-password" required;
            button type="submit" { "Log in" }
        }
    };
    page("Log in", None, &content)
}

/// A page that only says what went wrong.
pub(crate) fn problem(problem: Problem) -> Html<String> {
    let content = html! {
        p #message role="alert" { (problem.message()) }
        p { a href="/" { "Back to your downloads" } }
    };
    page(problem.title(), None, &content)
}

/// What the customer is entitled to.
pub(crate) fn downloads(listing: &Listing) -> Html<String> {
    let signed = Signed { customer: &listing.customer, csrf: &listing.csrf };
    let at = |offset: u64| match &listing.product {
        Some(product) => format!("/downloads?product={}&offset={offset}", encode(product, false)),
        None => format!("/downloads?offset={offset}"),
    };
    let content = html! {
        @if let Some(product) = &listing.product {
            p { "This is only what there is of " strong id="product" { (product) } ". " a href="/downloads" { "All your downloads" } }
        }
        @if listing.items.is_empty() {
            p #message {
                @if listing.product.is_some() { "Nothing of it is among your downloads." }
                @else if listing.offset == 0 { "There is nothing for you to download yet." }
                @else { "There is nothing more." }
            }
        } @else {
            p { "Choose a file. You then get a link and commands to download it with." }
            table id="downloads" {
                thead {
                    tr {
                        th scope="col" { "Product" }
                        th scope="col" { "Version" }
                        th scope="col" { "File" }
                        th scope="col" { "Size" }
                        th scope="col" { "SHA-256" }
                        th scope="col" { "Available until" }
                        th scope="col" { span class="hidden" { "Choose" } }
                    }
                }
                tbody {
                    @for item in &listing.items {
                        tr {
                            td { (item.product) }
                            td { (item.version) }
                            td class="file" { (item.file) }
                            td class="size" { (item.human_size) }
                            td { code class="hash" { (item.sha256) } }
                            td { (until(&item.until)) }
                            td {
                                form method="post" action="/stage" {
                                    input type="hidden" name="csrf" value=(listing.csrf);
                                    input type="hidden" name="product" value=(item.product);
                                    input type="hidden" name="version" value=(item.version);
                                    button type="submit" {
                                        "Download" span class="hidden" { " " (item.product) " " (item.version) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        @if listing.previous.is_some() || listing.next.is_some() {
            nav aria-label="Pages" {
                @if let Some(offset) = listing.previous { a rel="prev" href=(at(offset)) { "Previous" } " " }
                @if let Some(offset) = listing.next { a rel="next" href=(at(offset)) { "Next" } }
            }
        }
    };
    page("Your downloads", Some(signed), &content)
}

fn until(until: &Until) -> Markup {
    html! {
        @match &until.0 {
            Some(at) => time datetime=(at) { (at.replace('T', " ").replace('Z', " UTC")) },
            None => "no end",
        }
    }
}

/// A file that was staged: how to fetch it.
pub(crate) fn staged(staged: &Staged, customer: &str, csrf: &str) -> Html<String> {
    let account = &staged.account;
    let content = html! {
        @if staged.tls_required {
            p {
                "Your file is ready. Its server lets nobody in without encryption, so there is no link for browsers: use a command below, or a "
                "download program that speaks FTPS (explicit TLS) with the values below. "
                (ONE_FILE)
            }
        } @else {
            p { "Your file is ready: " a id="ftp-link" href=(staged.url) { "download " (staged.file) } }
            p #clear {
                strong { "By this link the password and the file cross the network in clear, for others on the way to read." }
                @if staged.tls { " The commands below encrypt both." } @else { " So they do by the commands below." }
            }
            p { "The link works in download programs and in browsers that still speak ftp. " (ONE_FILE) }
        }
        dl {
            dt { "Product" } dd { (staged.product) " " (staged.version) }
            dt { "File" } dd { code id="file" { (staged.file) } }
            dt { "Size" } dd { code id="size" { (staged.size) } " bytes (" (staged.human_size) ")" }
            dt { "SHA-256" } dd { code id="sha256" { (staged.sha256) } }
            dt { "Server" } dd { code id="ftp-host" { (staged.host) } " port " code id="ftp-port" { (staged.port) } }
            dt { "Encryption" }
            dd #encryption { @if staged.tls { "explicit TLS (FTPS), which the commands below insist on" } @else { "none" } }
            dt { "User" } dd { code id="ftp-user" { (staged.user) } }
            dt { "Password" } dd { code id="ftp-password" { (staged.password) } }
            dt { "Valid until" } dd id="expires" { (until(&staged.expires)) }
            dt { "Lease" } dd { code id="lease" { (staged.lease) } }
        }
        h2 { "With curl" }
        pre id="curl" { (staged.curl) }
        h2 { "With lftp" }
        pre id="lftp" { (staged.lftp) }
        p { "Both go on where they stopped when they are run again." }
        @if let Some(ca) = &staged.ca {
            p {
                "The commands expect the certificate of the site's own authority in the file " code id="ca" { (ca) } ", which "
                @if let Some(path) = staged.ca_path { a id="ca-link" href=(path) download=(ca) { "you get here" } ", once for all downloads." }
                @else { "you get from whoever runs this site." }
            }
        }
        h2 { "Check what has arrived" }
        pre id="sha256sum" { (staged.check) }
        h2 { "In your own account" }
        p {
            "With your own name and password the same file is at " code id="account-path" { (account.path) }
            ", until " span id="account-expires" { (until(&account.expires)) } "."
        }
        pre id="account-curl" { (account.curl) }
        p { a href="/downloads" { "Back to your downloads" } }
    };
    page("Ready to download", Some(Signed { customer, csrf }), &content)
}
