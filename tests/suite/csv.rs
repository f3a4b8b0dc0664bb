//! `backfill` reads CSV as people have it, and names what is not CSV.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};

use crate::support::{
    database::Database,
    program::{Output, ethtally},
    table::dump,
    wallets::{address, address_lines, addresses},
};

/// More wallets than are sorted in memory.
const MANY: u64 = 260_000;

/// Runs `backfill --placeholders` with this content on standard input.
fn backfill(database: &Database, content: impl Into<Vec<u8>>, arguments: &[&str]) -> Output {
    let arguments = ["backfill", "--from-csv", "-", "--placeholders", "--json"]
        .iter()
        .chain(arguments)
        .copied();
    ethtally(arguments).database(database).input(content).run()
}

/// Expects that the content gives the first two wallets and nothing else.
async fn gives_two(content: &[u8], arguments: &[&str]) {
    let shown = String::from_utf8_lossy(content);
    let database = Database::sqlite();
    let ran = backfill(&database, content, arguments);
    assert_eq!((ran.status, &*ran.stderr), (0, ""), "{shown:?}: {ran:?}");
    let result = ran.json();
    assert_eq!((&result["rows"], &result["rejected"]), (&2.into(), &0.into()), "{shown:?}");
    let mut stored: Vec<_> = dump(&database).await;
    stored.iter_mut().for_each(|row| row.truncate(42));
    stored.sort_unstable();
    let mut expected: Vec<_> = addresses(0..2).into_iter().collect();
    expected.sort_unstable();
    assert_eq!(stored, expected, "{shown:?}");
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn utf_16(text: &str, encode: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(encode).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_delimiter_is_read_with_and_without_the_name_of_a_column() {
    let (a, b) = (address(0), address(1));
    for delimiter in [",", ";", "\t", "|"] {
        let texts: [(&str, &[&str]); 7] = [
            ("{a}\n{b}\n", &[]),
            ("{a}~1\n{b}~2\n", &[]),
            ("id~wallet\n1~{a}\n2~{b}\n", &[]),
            (
                "\u{feff}\"id\"~\"Address\"~\"note\"\r\n\"1\"~\"{a}\"~\"x~y\"\r\n2~\"{b}\"~\"\"\r\n",
                &[],
            ),
            ("id~amount~wallet\n1~1,5;|~{a}\n2~\"2,5\"~{b}\n", &["--column", "WALLET"]),
            ("id~wallet~owner\n1~{b}~{a}\n2~{a}~{b}\n", &["--column", "Owner"]),
            ("account~name\n{a}~x\n{b}~y\n", &[]),
        ];
        for (text, arguments) in texts {
            if delimiter != "\t" && text.contains("1,5;|") {
                continue;
            }
            let text = text.replace('~', delimiter).replace("{a}", &a).replace("{b}", &b);
            gives_two(text.as_bytes(), arguments).await;
        }
    }
    for separator in [';', '\t', ':', ','] {
        for first in [format!("sep={separator}"), format!("\u{feff}\"SEP={separator}\"")] {
            let text =
                format!("{first}\r\nid{separator}wallet\r\n1{separator}{a}\r\n2{separator}{b}");
            gives_two(text.as_bytes(), &[]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn utf_16_and_gzip_are_read() {
    let text = format!("id;wallet;note\r\n1;{};\"é 🦀\"\r\n2;{};x\r\n", address(0), address(1));
    for encode in [u16::to_le_bytes, u16::to_be_bytes] {
        for bom in ["\u{feff}", ""] {
            let content = utf_16(&format!("{bom}{text}"), encode);
            gives_two(&content, &[]).await;
            gives_two(&gzip(&content), &["--column", "wallet"]).await;
        }
        gives_two(&utf_16(&format!("\u{feff}sep=;\r\n{text}"), encode), &[]).await;
    }
    gives_two(&gzip(text.as_bytes()), &[]).await;
    // Several files that were compressed one by one.
    let (one, other) = text.split_at(30);
    gives_two(&[gzip(one.as_bytes()), gzip(other.as_bytes())].concat(), &[]).await;
    let database = Database::sqlite();
    fs::write(database.folder().join("wallets.csv.gz"), gzip(text.as_bytes())).unwrap();
    let file = ["backfill", "--placeholders", "--from-csv", "wallets.csv.gz"];
    ethtally(file).database(&database).folder(database.folder()).run().expect(0);
    assert_eq!(dump(&database).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_around_an_address_unseen_is_left_out() {
    let (a, b) = (address(0), address(1));
    for (before, after) in [
        ("  ", "\t"),
        ("\u{a0}", "\u{a0}"),
        ("\u{200b}", "\u{feff}"),
        ("\u{202a}", "\u{202c}"),
        ("'", ""),
        ("=\"", "\""),
        ("\"=\"\"", "\"\"\""),
        ("\" ", " \""),
    ] {
        let text = format!("n;{before}wallet{after}\n1;{before}{a}{after}\n2;{before}{b}{after}\n");
        gives_two(text.as_bytes(), &[]).await;
    }
    let latin_1 = [b"note;wallet\n\xe9;\xa0", a.as_bytes(), b"\xa0\n\xe8;", b.as_bytes()].concat();
    gives_two(&latin_1, &[]).await;

    let database = Database::sqlite();
    let middle = format!("{}\u{200b}{}", &a[..9], &a[9..]);
    let csv = format!("wallet\n{}\n{middle}\n{b}\n{}\n", a.replacen('x', "X", 1), &a[2..]);
    let ran = backfill(&database, csv, &[]).expect(0);
    for reason in [
        "note: line 2: \"0X",
        "starts with 0X, not 0x",
        "\\u{200b}",
        "note: line 3: ",
        "is not a hexadecimal digit",
        "note: line 5: ",
        "does not start with 0x",
    ] {
        assert!(ran.stderr.contains(reason), "{reason}: {ran:?}");
    }
    assert_eq!(ran.json()["rejected"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_rows_keep_their_lines_in_every_encoding() {
    for (end, delimiter) in [("\n", ','), ("\r\n", ';'), ("\r", '\t')] {
        let text = format!(
            "sep={delimiter}\nid,wallet\n\n\n1,0x12\n\"2\nx\",0x13\n3,{}\n4,x\n",
            address(0)
        )
        .replace("id,", &format!("id{delimiter}"))
        .replace(",0x", &format!("{delimiter}0x"))
        .replace(",x", &format!("{delimiter}x"))
        .replace('\n', end);
        for content in [
            text.clone().into_bytes(),
            format!("\u{feff}{text}").into_bytes(),
            utf_16(&format!("\u{feff}{text}"), u16::to_le_bytes),
            utf_16(&text, u16::to_be_bytes),
            gzip(text.as_bytes()),
        ] {
            let ran = backfill(&Database::sqlite(), content, &[]).expect(0);
            let lines: Vec<_> = ran.stderr.lines().map(|line| &line[..13]).collect();
            assert_eq!(lines, ["note: line 5:", "note: line 6:", "note: line 9:"], "{text:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_formats_are_refused_by_name_with_the_remedy() {
    let a = address(0);
    let pipe = "| ethtally backfill --from-csv -";
    let ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0\0\0".to_vec();
    let tar = [vec![b'w'; 257], b"ustar\0".to_vec(), vec![0; 249]].concat();
    let binary = |start: &[u8]| [start, b"\0\x01\x02\xff\xfe\0"].concat();
    let json = format!("[\n {{\"wallet\": \"{a}\"}}\n]");
    let cases: [(Vec<u8>, &str, &str); 25] = [
        (
            binary(b"PK\x03\x04\x14\0\x06\0[Content_Types].xml"),
            "an Excel workbook (.xlsx)",
            "as CSV",
        ),
        (
            binary(b"PK\x03\x04\x14\0mimetypeapplication/vnd.oasis.opendocument.spreadsheet"),
            "(.ods)",
            "as CSV",
        ),
        (binary(b"PK\x03\x04\x14\0wallets.csv"), "a zip archive", "unzip -p FILE |"),
        (ole, "an Excel workbook (.xls)", "as CSV"),
        (binary(b"PAR1\x15"), "a Parquet file", "as CSV"),
        (binary(b"%PDF-1.7\n"), "a PDF document", "CSV"),
        (binary(b"SQLite format 3\0"), "an SQLite database", "as CSV"),
        (binary(b"\x28\xb5\x2f\xfd"), "zstd", "`zstd -dc FILE | ethtally backfill --from-csv -`"),
        (binary(b"BZh91AY&SY"), "bzip2", "bzip2 -dc FILE |"),
        (binary(b"\xfd7zXZ\0"), "xz", "xz -dc FILE |"),
        (binary(b"7z\xbc\xaf\x27\x1c"), "a 7z archive", "7z x -so FILE |"),
        (tar.clone(), "a tar archive", pipe),
        (gzip(&tar), "a tar archive", pipe),
        (gzip(&gzip(a.as_bytes())), "compressed by gzip twice", pipe),
        (gzip(&binary(b"PK\x03\x04xl/workbook.xml")), "an Excel workbook (.xlsx)", "as CSV"),
        (json.clone().into_bytes(), "JSON", "jq -r"),
        (format!("\u{feff}{json}").into_bytes(), "JSON", "jq -r"),
        (utf_16(&format!("\u{feff}{json}"), u16::to_le_bytes), "JSON", "jq -r"),
        (format!("[\"{a}\"]").into_bytes(), "JSON", "jq -r"),
        (format!("{{\"wallets\":[\"{a}\"]}}").into_bytes(), "JSON", "jq -r"),
        (
            format!("{{\"wallet\":\"{a}\"}}\n{{\"wallet\":\"{a}\"}}\n").into_bytes(),
            "NDJSON",
            "jq -r .wallet FILE |",
        ),
        (b"\n <!DOCTYPE html>\n<html></html>".to_vec(), "HTML", "CSV"),
        (b"<html><table>".to_vec(), "HTML", "CSV"),
        (b"<?xml version=\"1.0\"?>\n<Workbook/>".to_vec(), "XML", "CSV"),
        (b"\xff\xfe\0\0w\0\0\0".to_vec(), "UTF-32", "UTF-8"),
    ];
    for (content, name, remedy) in cases {
        let shown = String::from_utf8_lossy(&content);
        let database = Database::sqlite();
        let ran = backfill(&database, content.as_slice(), &[]).expect(2);
        let error = ran.error();
        assert_eq!(ran.stderr.lines().count(), 1, "{shown:?}: {ran:?}");
        assert!(error.starts_with("error: standard input: is "), "{shown:?}: {error}");
        assert!(error.contains(name) && error.contains(remedy), "{shown:?}: {error}");
        assert!(error.contains("not CSV; "), "{error}");
        assert_eq!(dump(&database).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_cut_off_is_an_error_and_nothing_is_stored() {
    let lines = address_lines(0..2000);
    let whole = gzip(lines.as_bytes());
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    let cases = [
        (whole[..5].to_vec(), "is cut off"),
        (whole[..middle].to_vec(), "is cut off"),
        (whole[..whole.len() - 1].to_vec(), "is cut off"),
        ([&whole[..], &whole[..7]].concat(), "is cut off"),
        (damaged, "is damaged"),
        ([&whole[..], b"0x12\n"].concat(), "is "),
        (utf_16(&lines, u16::to_le_bytes)[..1001].to_vec(), "ends within a character"),
        (
            format!("{lines}0x12,\"note\n{}", address(3000)).into_bytes(),
            "line 2001: a quote is not closed",
        ),
    ];
    for (content, expected) in cases {
        let database = Database::sqlite();
        let ran = backfill(&database, content, &[]).expect(2);
        assert!(ran.error().contains(expected), "{expected}: {ran:?}");
        assert_eq!(dump(&database).await, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_hold_no_wallet_are_an_error_in_every_form() {
    for text in [" \n\t\n", "wallet\nx\n", "id;wallet\n1;\n2;0x12\n", "\u{a0}\n", "0x12"] {
        for content in [text.as_bytes().to_vec(), gzip(text.as_bytes())] {
            let ran = backfill(&Database::sqlite(), content.clone(), &[]).expect(2);
            assert!(
                ran.error().contains("rows holds a wallet address; name the column"),
                "{ran:?}"
            );
            let names_columns = ran.error().ends_with("; the columns are id, wallet");
            assert_eq!(names_columns, text.starts_with("id;"), "{ran:?}");
        }
    }
    let ran = backfill(&Database::sqlite(), gzip(b""), &[]).expect(2);
    assert!(ran.error().contains("is empty and holds no wallet"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_files_have_no_name_and_are_in_the_folder_that_tmpdir_names() {
    let database = Database::sqlite();
    let folder = database.folder().join("temporary");
    fs::create_dir(&folder).unwrap();
    let run = |tmpdir: &str| {
        ethtally(["backfill", "--from-csv", "-", "--placeholders"])
            .database(&database)
            .env("TMPDIR", tmpdir)
            .input(address_lines(0..MANY))
    };
    let error = run("/no/such/folder").run().expect(2);
    assert!(
        error.error().starts_with(
            "error: standard input: folder /no/such/folder: a temporary file cannot be written; free space there, \
             or name another folder with TMPDIR: "
        ),
        "{error:?}"
    );
    assert_eq!(error.stderr.lines().count(), 1, "{error:?}");

    // One run ends by itself, the other one is killed.
    for limit in [Duration::from_secs(600), Duration::from_millis(500)] {
        let mut running = run(folder.to_str().unwrap()).start();
        let began = Instant::now();
        let mut seen = BTreeMap::new();
        while !running.has_ended() && began.elapsed() < limit {
            // Where a file system knows no files without a name, one has a name until it is removed at once.
            let names: Vec<_> =
                fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            seen.retain(|name, _| names.contains(name));
            for name in names {
                let first = seen.entry(name).or_insert_with(Instant::now);
                assert!(first.elapsed() < Duration::from_secs(5), "a name stays: {seen:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if !running.has_ended() {
            running.signal("KILL");
        }
        running.wait();
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a temporary file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_temporary_disk_is_one_line_with_the_remedy() {
    let database = Database::sqlite();
    // A limit on the size of files stands for the full disk, and leaves room for an empty database.
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_ethtally")])
        .args(["backfill", "--from-csv", "-", "--placeholders"])
        .env("DATABASE_URL", &database.url)
        .env("TMPDIR", database.folder())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(address_lines(0..MANY).as_bytes());
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    let folder = database.folder().display();
    let start =
        format!("error: standard input: folder {folder}: a temporary file cannot be written; ");
    assert!(error.starts_with(&start) && error.contains("TMPDIR"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(dump(&database).await, Vec::<String>::new());
}
