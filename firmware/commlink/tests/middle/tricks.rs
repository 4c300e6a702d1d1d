//! What he can do.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fabric::{Action, Flow};
use crate::{Chance, SESSIONS};

/// A kind of attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trick {
    None,
    /// A bit of a unit is another.
    Flip,
    /// A unit is lost.
    Drop,
    /// A unit comes later, in order.
    Delay,
    /// A unit comes twice.
    Replay,
    /// A unit comes again, some units later.
    ReplayLater,
    /// Two units change places.
    Reorder,
    /// Bytes by chance, framed or not, come before a unit.
    Inject,
    /// A unit is cut and the direction ends, or both.
    Truncate,
    /// From a unit on, two sessions are crossed, in one direction or in both.
    Splice,
    /// A unit of the other session comes before one of this.
    Borrow,
    /// A unit goes back to where it came from.
    Reflect,
    /// A first line says something else.
    Rewrite,
    /// A client is led to the server of its own machine.
    ToItself,
}

impl Trick {
    pub(crate) const ALL: &'static [Self] = &[
        Self::Flip,
        Self::Drop,
        Self::Delay,
        Self::Replay,
        Self::ReplayLater,
        Self::Reorder,
        Self::Inject,
        Self::Truncate,
        Self::Splice,
        Self::Borrow,
        Self::Reflect,
        Self::Rewrite,
        Self::ToItself,
    ];

    /// Whether no session can outlive it, at whatever unit it strikes.
    pub(crate) fn must_end(self) -> bool {
        matches!(self, Self::ToItself | Self::Rewrite)
    }

    /// Whether there are units at which a session cannot outlive it.
    pub(crate) fn may_end(self) -> bool {
        self != Self::None
    }
}

/// Units of a session that he waits for, at most: the attack strikes one of the first so many.
const UNITS: usize = 6;

/// He, at one attack.
pub(crate) struct Attacker {
    trick: Trick,
    chance: Chance,
    /// Where he strikes, and at which unit.
    flow: Flow,
    at: usize,
    seen: BTreeMap<Flow, Vec<Vec<u8>>>,
    held: Option<Vec<u8>>,
    /// Sessions are crossed: in which directions.
    crossed: [bool; 2],
}

impl Attacker {
    pub(crate) fn new(trick: Trick, mut chance: Chance) -> Self {
        let flow = Flow { session: chance.below(SESSIONS), up: chance.below(2) == 0 };
        let at = if trick == Trick::Rewrite { 0 } else { chance.below(UNITS) };
        Self { trick, chance, flow, at, seen: BTreeMap::new(), held: None, crossed: [false; 2] }
    }

    /// Where a flow leads at the moment.
    fn target(&self, flow: Flow) -> Flow {
        let crossed = self.crossed[usize::from(flow.up)];
        Flow { session: if crossed { (flow.session + 1) % SESSIONS } else { flow.session }, ..flow }
    }

    pub(crate) fn end(&mut self, flow: Flow) -> Vec<Action> {
        let to = self.target(flow);
        let held = if flow == self.flow { self.held.take() } else { None };
        held.map(|held| Action::Send(to, held)).into_iter().chain([Action::Close(to)]).collect()
    }

    pub(crate) fn unit(&mut self, flow: Flow, unit: Vec<u8>) -> Vec<Action> {
        let number = {
            let seen = self.seen.entry(flow).or_default();
            seen.push(unit.clone());
            seen.len() - 1
        };
        if flow == self.flow && number == self.at {
            return self.strike(unit);
        }
        let to = self.target(flow);
        let mut actions = vec![Action::Send(to, unit)];
        if flow == self.flow && number > self.at {
            let due = self.trick == Trick::Reorder || number >= self.at + 2;
            if let Some(held) = self.held.take_if(|_| due) {
                actions.push(Action::Send(to, held));
            }
        }
        actions
    }

    fn strike(&mut self, mut unit: Vec<u8>) -> Vec<Action> {
        let flow = self.flow;
        match self.trick {
            Trick::None | Trick::ToItself => vec![Action::Send(flow, unit)],
            Trick::Flip => {
                let bit = self.chance.below(8 * unit.len());
                unit[bit / 8] ^= 1 << (bit % 8);
                vec![Action::Send(flow, unit)]
            }
            Trick::Drop => Vec::new(),
            Trick::Delay => {
                let time = Duration::from_millis(u64::try_from(1 + self.chance.below(60_000)).unwrap());
                vec![Action::Wait(flow, time), Action::Send(flow, unit)]
            }
            Trick::Replay => vec![Action::Send(flow, unit.clone()), Action::Send(flow, unit)],
            Trick::ReplayLater => {
                self.held = Some(unit.clone());
                vec![Action::Send(flow, unit)]
            }
            Trick::Reorder => {
                self.held = Some(unit);
                Vec::new()
            }
            Trick::Inject => vec![Action::Send(flow, self.noise()), Action::Send(flow, unit)],
            Trick::Truncate => {
                unit.truncate(self.chance.below(unit.len()));
                let both = self.chance.below(2) == 0;
                let back = Flow { up: !flow.up, ..flow };
                let closes = [Some(flow), both.then_some(back)].into_iter().flatten().map(Action::Close);
                std::iter::once(Action::Send(flow, unit)).chain(closes).collect()
            }
            Trick::Splice => {
                self.crossed = [[true, false], [false, true], [true, true]][self.chance.below(3)];
                vec![Action::Send(self.target(flow), unit)]
            }
            Trick::Borrow => {
                let other = Flow { session: (flow.session + 1) % SESSIONS, ..flow };
                let all = self.seen.get(&other).cloned().unwrap_or_default();
                let borrowed = if all.is_empty() { self.noise() } else { all[self.chance.below(all.len())].clone() };
                vec![Action::Send(flow, borrowed), Action::Send(flow, unit)]
            }
            Trick::Reflect => {
                let back = Flow { up: !flow.up, ..flow };
                let mut actions = vec![Action::Send(back, unit.clone())];
                if self.chance.below(2) == 0 {
                    actions.push(Action::Send(flow, unit));
                }
                actions
            }
            Trick::Rewrite => vec![Action::Send(flow, self.rewritten(&unit))],
        }
    }

    fn noise(&mut self) -> Vec<u8> {
        let length = 1 + self.chance.below(200);
        let noise: Vec<u8> = (0..length).map(|_| u8::try_from(self.chance.below(256)).unwrap()).collect();
        if self.chance.below(2) == 0 {
            return noise;
        }
        [&u16::try_from(length).unwrap().to_be_bytes()[..], &noise].concat()
    }

    /// Another line that is well-formed.
    fn rewritten(&mut self, line: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(line).unwrap().trim_end();
        let fields: Vec<&str> = text.split(' ').collect();
        let choices: Vec<String> = if self.flow.up {
            // The generations, and other links.
            ["2", "1", "3,2", "3,1", "4294967295,2"]
                .map(|generations| format!("FFS/2 {} {generations}\r\n", fields[1]))
                .into_iter()
                .chain(["FFS/2 web-database 2,1\r\n".to_owned(), "FFS/2 alice-database 1\r\n".to_owned()])
                .collect()
        } else {
            let port: u16 = fields[1].parse().unwrap();
            let (near, same) = (port.wrapping_add(1).max(1), if port > 60_000 { port - 128 } else { port + 128 });
            let other = if fields[2] == "2" { "1" } else { "2" };
            vec![
                format!("FFS/2 {near} {}\r\n", fields[2]),
                // The same entry of the bag.
                format!("FFS/2 {same} {}\r\n", fields[2]),
                format!("FFS/2 {port} {other}\r\n"),
                format!("FFS/2 {port} 3\r\n"),
            ]
        };
        choices[self.chance.below(choices.len())].clone().into_bytes()
    }
}
