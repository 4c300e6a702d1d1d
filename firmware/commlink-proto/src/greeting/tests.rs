extern crate std;

use proptest::prelude::*;
use std::vec;

use super::*;

#[test]
fn good_hellos() {
    for (line, link, generations) in [
        (&b"FFS/2 web-database 1\r\n"[..], "web-database", &[1][..]),
        (b"FFS/2 a 4294967295,1\r\n", "a", &[u32::MAX, 1]),
    ] {
        let hello = Hello::parse(line).unwrap();
        assert_eq!((hello.link(), hello.generations()), (link, generations));
        assert_eq!(hello.line(), line);
    }
}

#[test]
fn bad_hellos() {
    for (line, error) in [
        (&b""[..], GreetingError::Malformed),
        (b"FFS/2 web-database 1", GreetingError::Malformed),
        (b"FFS/2 web-database 1\n", GreetingError::Malformed),
        (b"FFS/1 web-database 1\r\n", GreetingError::Malformed),
        (b"ffs/2 web-database 1\r\n", GreetingError::Malformed),
        (b"FFS/2 web-database\r\n", GreetingError::Malformed),
        (b"FFS/2 \xff 1\r\n", GreetingError::Malformed),
        (b"FFS/2  1\r\n", GreetingError::Link),
        (b"FFS/2 Web 1\r\n", GreetingError::Link),
        (b"FFS/2 a_b 1\r\n", GreetingError::Link),
        (b"FFS/2 a\r\n 1\r\n", GreetingError::Link),
        (b"FFS/2 a 1 2\r\n", GreetingError::Generation),
        (b"FFS/2 a \r\n", GreetingError::Generation),
        (b"FFS/2 a 0\r\n", GreetingError::Generation),
        (b"FFS/2 a 01\r\n", GreetingError::Generation),
        (b"FFS/2 a +1\r\n", GreetingError::Generation),
        (b"FFS/2 a 1,\r\n", GreetingError::Generation),
        (b"FFS/2 a 1,2\r\n", GreetingError::Generation),
        (b"FFS/2 a 2,2\r\n", GreetingError::Generation),
        (b"FFS/2 a 3,2,1\r\n", GreetingError::Generation),
        (b"FFS/2 a 4294967296\r\n", GreetingError::Generation),
    ] {
        assert_eq!(Hello::parse(line), Err(error), "{:?}", str::from_utf8(line));
    }
}

#[test]
fn bad_answers() {
    for (line, error) in [
        (&b"FFS/2 0 1\r\n"[..], GreetingError::Port),
        (b"FFS/2 65536 1\r\n", GreetingError::Port),
        (b"FFS/2 080 1\r\n", GreetingError::Port),
        (b"FFS/2 web 1\r\n", GreetingError::Port),
        (b"FFS/2 80 0\r\n", GreetingError::Generation),
        (b"FFS/2 80 2,1\r\n", GreetingError::Generation),
        (b"FFS/2 80\r\n", GreetingError::Malformed),
    ] {
        assert_eq!(Answer::parse(line), Err(error), "{:?}", str::from_utf8(line));
    }
}

#[test]
fn the_longest_line_is_just_within_the_limit() {
    let link = std::string::String::from_utf8(vec![b'x'; MAX_LINK]).unwrap();
    let hello = Hello::new(&link, &[u32::MAX, u32::MAX - 1]).unwrap();
    assert_eq!(hello.line().len(), MAX_GREETING);
    assert_eq!(Hello::parse(&hello.line()).unwrap(), hello);
    assert_eq!(Hello::new(&std::format!("{link}x"), &[1]), Err(GreetingError::Link));
    let line = std::format!("FFS/2 {link}x 1\r\n");
    assert_eq!(Hello::parse(line.as_bytes()), Err(GreetingError::Link));
    assert_eq!(Hello::parse(&[b'x'; MAX_GREETING + 1]), Err(GreetingError::TooLong));
}

#[test]
fn the_reader_takes_pieces_and_nothing_behind() {
    let mut reader = LineReader::new();
    assert_eq!(reader.push(b"FFS/2 a").unwrap(), None);
    assert_eq!(reader.push(b" 1\r").unwrap(), None);
    assert_eq!(reader.push(b"\n").unwrap().unwrap(), b"FFS/2 a 1\r\n");
    assert_eq!(LineReader::new().push(b"FFS/2 a 1\r\nx"), Err(GreetingError::Trailing));
    let mut longest = vec![b'x'; MAX_GREETING];
    assert_eq!(LineReader::new().push(&longest), Err(GreetingError::TooLong));
    longest[MAX_GREETING - 1] = b'\n';
    assert!(LineReader::new().push(&longest).unwrap().is_some());
}

#[test]
fn names_are_bounded_and_told_apart() {
    let hello = Hello::new("a", &[1]).unwrap();
    let answer = Answer { port: u16::MAX, generation: 1 };
    let longest = std::string::String::from_utf8(vec![b'n'; MAX_NAME]).unwrap();
    assert!(prologue(&hello, &answer, &longest, &longest).is_ok());
    assert_eq!(prologue(&hello, &answer, "", "b"), Err(GreetingError::Name));
    assert_eq!(prologue(&hello, &answer, "b", &std::format!("{longest}n")), Err(GreetingError::Name));
    assert_ne!(prologue(&hello, &answer, "ab", "c"), prologue(&hello, &answer, "a", "bc"));
    assert_ne!(prologue(&hello, &answer, "a", "b"), prologue(&hello, &answer, "b", "a"));
}

proptest! {
    #[test]
    fn what_is_accepted_is_what_would_be_written(line in "FFS/2 [a-z0-9A-]{0,40} [0-9,]{0,23}\r\n") {
        if let Ok(hello) = Hello::parse(line.as_bytes()) {
            prop_assert_eq!(hello.line(), line.as_bytes());
        }
        if let Ok(answer) = Answer::parse(line.as_bytes()) {
            prop_assert_eq!(answer.line(), line.as_bytes());
        }
    }

    #[test]
    fn garbage_never_panics(line in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Hello::parse(&line);
        let _ = Answer::parse(&line);
        let _ = LineReader::new().push(&line);
    }
}
