//! What operators read of the journal. It is kept on the state partition, from boot to boot, as far as there is room for it
//! (`journald.conf.d/ffs.conf`).
//!
//! Nothing is kept back: what is in the journal is no secret, by the rule for whoever writes it.

use super::service::{Answer, Refused, beside, unavailable};
use crate::journal::entry::{self, FIELDS, KERNEL, OF_KERNEL};
use crate::journal::{JournalError, Journalctl};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tobj::{Cursor, Fault, LogEntry, MAX_BYTES, Name, PAGE, Priority, Reply, Timestamp};
use tokio::sync::Semaphore;

/// How long reading may take: seldom entries are looked for in all of a journal, which a slow disk holds.
const DEADLINE: Duration = Duration::from_secs(100);
/// How many read at once; each has a process and a part of the memory.
const READERS: usize = 2;
/// How long others wait for their turn.
const TURN: Duration = Duration::from_secs(20);
/// The last second that journalctl knows: the end of the year 9999.
const LAST: u64 = 253_402_300_799;
/// More lines than a journal of this size has.
const MANY: u64 = 10_000_000;
/// What the root of a reply and its other fields take at most, in bytes.
const HEAD: usize = 4 << 10;
/// What tags, time and priority of an entry take at most.
const ENTRY: usize = 160;
/// Most names of units that are told.
const UNITS: usize = 200;
/// How the names of services end.
const SERVICE: &str = ".service";

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    pub(super) after: Option<Cursor>,
    pub(super) unit: Option<Name>,
    pub(super) priority: Option<Priority>,
    pub(super) since: Option<Timestamp>,
    pub(super) lines: Option<u64>,
}

impl Query {
    /// Whether it makes sense.
    fn check(&self) -> Result<(), Refused> {
        let why = match self {
            Self { after: Some(after), .. } if !entry::is_place(after) => {
                "this is no place in a log; begin without one, and go on with the place that comes with the answer"
            }
            Self { after: Some(_), since: Some(_), .. } => "a place and a time are two begins; ask for one of them",
            Self { lines: Some(0), .. } => "no lines are asked for",
            _ => return Ok(()),
        };
        Err(Refused(Fault::Invalid, why.into()))
    }

    /// What journalctl is to do; `all`: also what is long of an entry.
    fn arguments(&self, all: bool) -> Vec<String> {
        let fixed = ["--quiet", "--no-pager", "--output=json"].map(str::to_owned);
        let unit = self.unit.as_ref().map(|unit| match unit.as_str() {
            KERNEL => OF_KERNEL.to_owned(),
            unit => format!("--unit={unit}"),
        });
        // Behind a place there is no need to: reading ends when there is enough.
        let lines = self.lines.filter(|_| self.after.is_none());
        let chosen = [
            Some(format!("--output-fields={FIELDS}")),
            all.then(|| "--all".to_owned()),
            self.after.as_ref().map(|place| format!("--after-cursor={place}")),
            self.since.map(|at| format!("--since=@{}", at.0.min(LAST))),
            self.priority.map(|priority| format!("--priority={}", priority.as_str().to_ascii_lowercase())),
            lines.map(|lines| format!("--lines={}", lines.min(MANY))),
            unit,
        ];
        fixed.into_iter().chain(chosen.into_iter().flatten()).collect()
    }
}

/// Who reads the log.
#[derive(Debug)]
pub(super) struct Logs(Arc<Semaphore>);

impl Default for Logs {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READERS)))
    }
}

impl Logs {
    /// A page of it.
    pub(super) async fn list(&self, query: Query) -> Answer {
        query.check()?;
        let turn = tokio::time::timeout(TURN, self.0.clone().acquire_owned()).await;
        let busy = |_| Refused(Fault::Busy, "others are reading the log; try again later".into());
        let turn = turn.map_err(busy)?.map_err(unavailable)?;
        beside(move || {
            // Held as long as there is work, also for one who has gone.
            let _turn = turn;
            let journalctl = Journalctl::find().map_err(JournalError::Start)?;
            list(&journalctl, &query, Instant::now() + DEADLINE)
        })
        .await
    }
}

impl From<JournalError> for Refused {
    fn from(error: JournalError) -> Self {
        unavailable(error)
    }
}

fn list(journalctl: &Journalctl, query: &Query, until: Instant) -> Answer {
    let page = match read(journalctl, query, true, until)? {
        Some(page) => page,
        // There is one too long even to be cut here: journalctl leaves its text out.
        None => read(journalctl, query, false, until)?.unwrap_or_else(|| Page::new(query)),
    };
    if let (Some(unit), true, None) = (&query.unit, page.items.is_empty(), &query.after) {
        is_known(journalctl, unit, until)?;
    }
    Ok(Reply::Log { items: page.items, next: page.next, more: page.more })
}

/// A page being filled.
#[derive(Debug)]
struct Page {
    items: Vec<LogEntry>,
    next: Option<Cursor>,
    more: bool,
    most: usize,
    room: usize,
}

impl Page {
    fn new(query: &Query) -> Self {
        let most = query.lines.map_or(PAGE, |n| usize::try_from(n).map_or(PAGE, |n| n.min(PAGE)));
        Self { items: Vec::new(), next: query.after.clone(), more: false, most, room: MAX_BYTES - HEAD }
    }

    /// Adds an entry; `false` when there is no room for it, which makes it the next page's.
    fn push(&mut self, place: Cursor, entry: LogEntry) -> bool {
        let cost = ENTRY + escaped(entry.unit.as_str()) + escaped(entry.text.as_str());
        self.more = self.items.len() == self.most || cost > self.room;
        if !self.more {
            self.room -= cost;
            self.items.push(entry);
            self.next = Some(place);
        }
        !self.more
    }
}

/// How many bytes a text is on the wire, at most: a quotation mark is `&quot;`.
fn escaped(text: &str) -> usize {
    text.len() + 5 * text.bytes().filter(|b| b"&<>\"'".contains(b)).count()
}

/// A page; `None` where an entry is too long for that. `all`: also what is long of one.
fn read(journalctl: &Journalctl, query: &Query, all: bool, until: Instant) -> Result<Option<Page>, JournalError> {
    let (mut page, mut fits) = (Page::new(query), true);
    journalctl.read(&query.arguments(all), until, &mut |line| {
        fits &= line.whole || !all;
        fits && entry::parse(&line.bytes).is_none_or(|(place, entry)| page.push(place, entry))
    })?;
    Ok(fits.then_some(page))
}

/// Whether anything is in the journal of a unit of which nothing was found.
fn is_known(journalctl: &Journalctl, unit: &Name, until: Instant) -> Result<(), Refused> {
    let mut known = BTreeSet::from([KERNEL.to_owned()]);
    for field in ["--field=_SYSTEMD_UNIT", "--field=UNIT"] {
        journalctl.read(&["--quiet", "--no-pager", field], until, &mut |line| {
            known.insert(String::from_utf8_lossy(&line.bytes).into_owned());
            true
        })?;
    }
    if known.contains(unit.as_str()) || known.contains(&format!("{unit}{SERVICE}")) {
        return Ok(());
    }
    let known: Vec<&str> = known.iter().take(UNITS).map(|name| name.strip_suffix(SERVICE).unwrap_or(name)).collect();
    let why = format!("nothing in this machine's log is of a unit {unit}; it has some of {}", known.join(", "));
    Err(Refused(Fault::NotFound, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::{fake, soon};
    use tobj::{Message, Request, Text};

    /// A journal of `TOTAL` entries that understands places and numbers of lines as journalctl does; of unit `ftpd` there are none.
    const JOURNAL: &str = r#"
        after=0; end=$TOTAL
        for each; do case "$each" in
            --field=_SYSTEMD_UNIT) printf 'admind.service\ninit.scope\n'; exit;;
            --field=UNIT) printf 'ftpd.service\n'; exit;;
            --after-cursor=*) after=${each##*i=};;
            --lines=*) after=$((TOTAL - ${each#*=}));;
            --unit=admind|--unit=commlinkd.service) ;;
            --unit=*) end=0;;
            --since=@253402300799) end=0;;
        esac; done
        [ "$after" -ge 0 ] || after=0
        while [ "$after" -lt "$end" ]; do
            after=$((after + 1))
            printf '{"__CURSOR":"s=00000000000000000000000000000000;i=%d","__REALTIME_TIMESTAMP":"%d","MESSAGE":"%s %d"}\n' $after $after "$TEXT" $after
        done
    "#;

    fn journal(total: u64, text: &str) -> Journalctl {
        fake(&format!("TOTAL={total}; TEXT='{text}'; {JOURNAL}"))
    }

    fn page(journalctl: &Journalctl, query: &Query) -> (Vec<LogEntry>, Option<Cursor>, bool) {
        let answer = list(journalctl, query, soon()).map_err(|Refused(fault, why)| format!("{fault}: {why}"));
        let Reply::Log { items, next, more } = answer.unwrap() else { panic!("another reply") };
        (items, next, more)
    }

    fn refused(journalctl: &Journalctl, query: &Query) -> (Fault, String) {
        match list(journalctl, query, soon()) {
            Err(Refused(fault, why)) => (fault, why),
            Ok(reply) => panic!("{reply:?}"),
        }
    }

    fn place(n: u64) -> Option<Cursor> {
        Some(Cursor::new(&format!("s=00000000000000000000000000000000;i={n}")).unwrap())
    }

    fn unit(name: &str) -> Option<Name> {
        Some(Name::new(name).unwrap())
    }

    /// All pages, as a client asks for them: what it has got it does not want again.
    fn pages(journalctl: &Journalctl, mut query: Query) -> Vec<Vec<u64>> {
        let mut all = Vec::new();
        loop {
            let (items, next, more) = page(journalctl, &query);
            let got = u64::try_from(items.len()).unwrap();
            all.push(items.iter().map(|e| e.at).collect());
            query = Query { after: next, since: None, lines: query.lines.map(|n| n - got), ..query };
            if !more || query.lines == Some(0) {
                return all;
            }
        }
    }

    #[test]
    fn arguments_are_ours() {
        let plain = Query::default().arguments(true);
        let fields = format!("--output-fields={FIELDS}");
        assert_eq!(plain, ["--quiet", "--no-pager", "--output=json", &fields, "--all"]);
        let query =
            Query { unit: unit("commlinkd"), priority: Some(Priority::Error), lines: Some(7), ..Query::default() };
        let since = Query { since: Some(Timestamp(86400)), ..query.clone() };
        let chosen = ["--since=@86400", "--priority=err", "--lines=7", "--unit=commlinkd"];
        assert_eq!(since.arguments(false)[4..], chosen);
        let after = Query { after: place(12), unit: unit(KERNEL), ..query };
        assert_eq!(
            after.arguments(false)[4..],
            ["--after-cursor=s=00000000000000000000000000000000;i=12", "--priority=err", "_TRANSPORT=kernel"]
        );
        // What is too large for journalctl is as good as the most that it takes.
        let far = Query { since: Some(Timestamp(u64::MAX)), lines: Some(u64::MAX), ..Query::default() };
        assert_eq!(far.arguments(false)[4..], ["--since=@253402300799", "--lines=10000000"]);
        for name in ["--flush", "-f", "a b", "a;b", "$(x)", "../x", "a*", "[a]", ""] {
            assert!(Name::new(name).is_err(), "{name} is no unit that can be asked for");
        }
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused_before_anything_runs() {
        const WELL: &str = "s=00000000000000000000000000000000;i=1";
        let with = |after: &str| Query { after: Some(Cursor::new(after).unwrap()), ..Query::default() };
        let both = Query { since: Some(Timestamp(1)), ..with(WELL) };
        let none = Query { lines: Some(0), ..Query::default() };
        for query in [with("x"), with("i=1"), with(&format!("{WELL};--flush=1")), both, none] {
            let Err(Refused(fault, why)) = Logs::default().list(query.clone()).await else { panic!("{query:?}") };
            assert_eq!(fault, Fault::Invalid, "{query:?}: {why}");
        }
    }

    #[test]
    fn page_by_page() {
        let (full, total) = (u64::try_from(PAGE).unwrap(), 2 * u64::try_from(PAGE).unwrap() + 50);
        let journal = journal(total, "line");
        let whole = pages(&journal, Query::default());
        assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [PAGE, PAGE, 50]);
        assert_eq!(whole.concat(), (1..=total).collect::<Vec<_>>());
        // The newest, also when they are more than a page, or more than there are.
        for (lines, sizes) in
            [(1, vec![1]), (full, vec![PAGE]), (full + 1, vec![PAGE, 1]), (u64::MAX, vec![PAGE, PAGE, 50])]
        {
            let newest = pages(&journal, Query { lines: Some(lines), ..Query::default() });
            assert_eq!(newest.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{lines}");
            assert_eq!(newest.concat(), (total - lines.min(total) + 1..=total).collect::<Vec<_>>(), "{lines}");
        }
        // Behind a place: those that follow it.
        let some = page(&journal, &Query { after: place(10), lines: Some(3), ..Query::default() });
        assert_eq!(
            (some.0.iter().map(|e| e.at).collect::<Vec<_>>(), some.1, some.2),
            (vec![11, 12, 13], place(13), true)
        );
        let last = page(&journal, &Query { after: place(total - 1), ..Query::default() });
        assert_eq!((last.0.len(), last.1, last.2), (1, place(total), false));
        // Behind the last one there is nothing, and one goes on from there.
        let end = page(&journal, &Query { after: place(total), ..Query::default() });
        assert_eq!(end, (vec![], place(total), false));
        let none = page(&journal, &Query { since: Some(Timestamp(u64::MAX)), ..Query::default() });
        assert_eq!(none, (vec![], None, false));
    }

    #[test]
    fn pages_of_long_texts_fit_a_message() {
        // The worst that a text can be on the wire.
        let journal = journal(60, &"&".repeat(Text::MAX));
        let mut query = Query::default();
        let mut seen = 0;
        loop {
            let (items, next, more) = page(&journal, &query);
            assert!(!items.is_empty() && items.len() < PAGE, "{}", items.len());
            seen += items.len();
            let reply = Reply::Log { items, next: next.clone(), more };
            Message::request(Request::UpdateStatus {}).unwrap().reply(reply).encode().unwrap();
            query.after = next;
            if !more {
                break;
            }
        }
        assert_eq!(seen, 60);
    }

    #[test]
    fn a_full_page_of_the_largest_short_entries_fits() {
        let mut page = Page::new(&Query::default());
        let worst = |n: usize| Text::new(&"\"".repeat(n)).unwrap();
        let entry = LogEntry { at: u64::MAX, unit: worst(128), priority: Priority::Warning, text: worst(20) };
        while page.push(Cursor::new(&"x".repeat(Cursor::MAX)).unwrap(), entry.clone()) {}
        assert_eq!(page.items.len(), PAGE);
        let reply = Reply::Log { items: page.items, next: page.next, more: page.more };
        let text = Message::request(Request::UpdateStatus {}).unwrap().reply(reply).encode().unwrap();
        assert!(
            text.len() <= MAX_BYTES - page.room,
            "{} bytes, where {} were reckoned",
            text.len(),
            MAX_BYTES - page.room
        );
    }

    #[test]
    fn an_entry_that_is_too_long_does_not_hide_the_others() {
        let journal = fake(
            r#"for each; do [ "$each" = --all ] && all=1; done
            line() { printf '{"__CURSOR":"s=00000000000000000000000000000000;i=%d","__REALTIME_TIMESTAMP":"%d","MESSAGE":' $1 $1; }
            line 1; echo '"one"}'
            line 2; if [ "$all" ]; then printf '"'; yes x | head -n 600000 | tr -d '\n'; echo '"}'; else echo 'null}'; fi
            line 3; echo '"three"}'"#,
        );
        let (items, next, more) = page(&journal, &Query::default());
        let texts: Vec<&str> = items.iter().map(|e| e.text.as_str()).collect();
        assert_eq!((texts, next, more), (vec!["one", "(too long to be shown)", "three"], place(3), false));
    }

    #[test]
    fn a_unit_that_nobody_knows_is_told_from_one_that_is_silent() {
        let journal = journal(3, "line");
        let of = |name: &str| Query { unit: unit(name), ..Query::default() };
        assert_eq!(page(&journal, &of("admind")).0.len(), 3);
        for silent in ["ftpd", "ftpd.service", "init.scope", KERNEL] {
            let query = Query { since: Some(Timestamp(u64::MAX)), ..of(silent) };
            assert_eq!(page(&journal, &query), (vec![], None, false), "{silent}");
        }
        let (fault, why) = refused(&journal, &of("ftp"));
        assert_eq!(fault, Fault::NotFound);
        assert!(why.contains("of a unit ftp;") && why.ends_with("admind, ftpd, init.scope, kernel"), "{why}");
        // Who goes on has been told already.
        assert_eq!(page(&journal, &Query { after: place(3), ..of("ftp") }).0, vec![]);
    }

    #[test]
    fn a_journal_that_cannot_be_read() {
        let (fault, why) = refused(&fake("echo No journal files were found. >&2; exit 1"), &Query::default());
        assert_eq!(fault, Fault::Unavailable);
        assert!(why.contains("journalctl failed") && why.contains("No journal files were found."), "{why}");
        let late = list(&fake("exec tail -f /dev/null"), &Query::default(), Instant::now());
        let Err(Refused(fault, why)) = late else { panic!("{:?}", late.is_ok()) };
        assert!(fault == Fault::Unavailable && why.contains("ask for fewer lines"), "{why}");
    }

    #[test]
    fn commlinkd_waits_longer() {
        let commlinkd = commlink::client::LONG_ANSWER * 5 / 6;
        assert!(DEADLINE >= Duration::from_secs(90) && TURN + DEADLINE + Duration::from_secs(10) < commlinkd);
    }
}
