//! Customers, and what they may have.

use super::args::{Customer, Entitlement};
use super::link::Operator;
use super::{CtlError, show};
use serde_json::json;
use std::io::IsTerminal;
use tobj::{CustomerInfo, Name, Reply, Request, Secret};
use zeroize::Zeroizing;

/// Shortest password that a customer is given.
const MIN_PASSWORD: usize = 8;

pub(crate) async fn customer(operator: &Operator, command: Customer, as_json: bool) -> Result<(), CtlError> {
    let database = operator.database()?;
    match command {
        Customer::Add { name } => {
            let password = password()?;
            operator.ask(database, Request::CustomerAdd { customer: name.clone(), password }).await?;
            eprintln!("customer {name} was added");
            Ok(())
        }
        Customer::Passwd { name } => {
            let password = password()?;
            operator.ask(database, Request::CustomerPassword { customer: name.clone(), password }).await?;
            eprintln!("customer {name} has a new password");
            Ok(())
        }
        Customer::Disable { name } => {
            operator.ask(database, Request::CustomerEnable { customer: name.clone(), enabled: false }).await?;
            eprintln!("customer {name} is kept out; his sessions and leases end");
            Ok(())
        }
        Customer::Enable { name } => {
            operator.ask(database, Request::CustomerEnable { customer: name.clone(), enabled: true }).await?;
            eprintln!("customer {name} may log in");
            Ok(())
        }
        Customer::Remove { name } => {
            operator.ask(database, Request::CustomerRemove { customer: name.clone() }).await?;
            eprintln!("customer {name} was removed; what he had ends");
            Ok(())
        }
        Customer::List => list(operator, database, as_json).await,
    }
}

async fn list(operator: &Operator, database: &str, as_json: bool) -> Result<(), CtlError> {
    let ask = async |offset| match operator.ask(database, Request::CustomerList { offset }).await? {
        Reply::Customers { items, more } => Ok((items, more)),
        _ => Err(CtlError::Mismatch(database.to_owned())),
    };
    let customers = show::pages(ask).await?;
    if as_json {
        let all = customers.iter().map(|CustomerInfo { name, enabled, added }| {
            json!({ "name": name.as_str(), "enabled": enabled, "added": added.0 })
        });
        return show::json(&all.collect());
    }
    let row = |c: &CustomerInfo| {
        let state = if c.enabled { "enabled" } else { "disabled" };
        vec![c.name.to_string(), state.to_owned(), show::time(c.added)]
    };
    show::table(&["CUSTOMER", "STATE", "SINCE"], &customers.iter().map(row).collect::<Vec<_>>())
}

/// Asks for a password without showing it; from a pipe, reads one line.
fn password() -> Result<Secret, CtlError> {
    let failed = || CtlError::failed("the password could not be read");
    let text = if std::io::stdin().is_terminal() {
        let first = Zeroizing::new(rpassword::prompt_password("password: ").map_err(failed())?);
        let again = Zeroizing::new(rpassword::prompt_password("again: ").map_err(failed())?);
        if first != again {
            return Err(CtlError::Usage("the two passwords differ".into()));
        }
        first
    } else {
        let mut line = Zeroizing::new(String::new());
        std::io::stdin().read_line(&mut line).map_err(failed())?;
        let length = line.trim_end_matches(['\n', '\r']).len();
        line.truncate(length);
        line
    };
    if text.chars().count() < MIN_PASSWORD {
        return Err(CtlError::Usage(format!("a password has at least {MIN_PASSWORD} characters")));
    }
    Secret::new(&text).map_err(|e| CtlError::Usage(format!("the password cannot be used: {e}")))
}

pub(crate) async fn entitlement(operator: &Operator, command: Entitlement, as_json: bool) -> Result<(), CtlError> {
    let database = operator.database()?;
    match command {
        Entitlement::Add { customer, product, version, until } => {
            operator.ask(database, Request::EntitlementAdd { customer, product, version, until }).await?;
            eprintln!("the entitlement was added");
            Ok(())
        }
        Entitlement::Remove { customer, product, version } => {
            operator.ask(database, Request::EntitlementRemove { customer, product, version }).await?;
            eprintln!("the entitlement was withdrawn");
            Ok(())
        }
        Entitlement::List => {
            let ask = async |offset| match operator.ask(database, Request::EntitlementList { offset }).await? {
                Reply::Entitlements { items, more } => Ok((items, more)),
                _ => Err(CtlError::Mismatch(database.to_owned())),
            };
            let items = show::pages(ask).await?;
            if as_json {
                let all = items.iter().map(|e| {
                    json!({
                        "customer": e.customer.as_str(), "product": e.product.as_str(),
                        "version": e.version.as_ref().map(Name::as_str), "until": e.until.map(|t| t.0),
                    })
                });
                return show::json(&all.collect());
            }
            let rows: Vec<_> = items
                .iter()
                .map(|e| {
                    let version = e.version.as_ref().map_or("all".into(), Name::to_string);
                    let until = e.until.map_or("-".into(), show::time);
                    vec![e.customer.to_string(), e.product.to_string(), version, until]
                })
                .collect();
            show::table(&["CUSTOMER", "PRODUCT", "VERSION", "UNTIL"], &rows)
        }
    }
}
