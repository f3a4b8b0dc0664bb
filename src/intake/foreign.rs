//! Files that are not CSV, told apart by their first bytes.

/// A format that is not CSV: what it is, and how to make CSV of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) name: &'static str,
    pub(super) remedy: &'static str,
}

const SAVE_AS: &str = "open it and save it as CSV";
const EXPORT: &str = "export the wallets from it as CSV";

/// First bytes, what they mean, and the remedy.
const MAGIC: [(&[u8], &str, &str); 25] = [
    (
        b"\x28\xb5\x2f\xfd",
        "compressed by zstd",
        "use `zstd -dc FILE | ethtally backfill --from-csv -`",
    ),
    (b"BZh", "compressed by bzip2", "use `bzip2 -dc FILE | ethtally backfill --from-csv -`"),
    (b"\xfd7zXZ\0", "compressed by xz", "use `xz -dc FILE | ethtally backfill --from-csv -`"),
    (
        b"\x04\x22\x4d\x18",
        "compressed by lz4",
        "use `lz4 -dc FILE | ethtally backfill --from-csv -`",
    ),
    (b"LZIP", "compressed by lzip", "use `lzip -dc FILE | ethtally backfill --from-csv -`"),
    (b"\x1f\x9d", "compressed by compress", "use `gzip -dc FILE | ethtally backfill --from-csv -`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "use `7z x -so FILE | ethtally backfill --from-csv -`"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it and give the CSV file in it"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)", SAVE_AS),
    (b"\x09\x08\x10\0\0\x06\x05\0", "an Excel workbook (.xls)", SAVE_AS),
    (b"PAR1", "a Parquet file", EXPORT),
    (b"ARROW1", "an Arrow file", EXPORT),
    (b"FEA1", "a Feather file", EXPORT),
    (b"ORC", "an ORC file", EXPORT),
    (b"Obj\x01", "an Avro file", EXPORT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", EXPORT),
    (b"SQLite format 3\0", "an SQLite database", EXPORT),
    (b"PGDMP", "a PostgreSQL dump", "restore it and export the wallets as CSV"),
    (b"%PDF-", "a PDF document", "give the CSV file that it was made from"),
    (b"{\\rtf", "an RTF document", SAVE_AS),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", "give the CSV file that it shows"),
    (b"\xff\xd8\xff", "a JPEG image", "give the CSV file that it shows"),
    (b"\x7fELF", "a program", "check the path of --from-csv"),
    (b"\xff\xfe\0\0", "in UTF-32", "save it as UTF-8"),
    (b"\0\0\xfe\xff", "in UTF-32", "save it as UTF-8"),
];

/// Magic bytes that a text may begin with as well: they need what follows them to be binary.
const ALSO_TEXT: [&[u8]; 6] = [b"BZh", b"LZIP", b"PAR1", b"ARROW1", b"ORC", b"FEA1"];

/// The binary format that these first bytes of a file belong to.
pub(super) fn binary(head: &[u8]) -> Option<Foreign> {
    if [&b"PK\x03\x04"[..], b"PK\x05\x06", b"PK\x07\x08"]
        .iter()
        .any(|magic| head.starts_with(magic))
    {
        return Some(zip(head));
    }
    if head.get(257..262) == Some(b"ustar") {
        let remedy = "use `tar -xOf FILE | ethtally backfill --from-csv -`";
        return Some(Foreign { name: "a tar archive", remedy });
    }
    let is_binary = |byte: &u8| *byte < 9 || *byte == 0x7f || *byte >= 0x80;
    MAGIC.into_iter().find_map(|(magic, name, remedy)| {
        let rest = head.strip_prefix(magic)?;
        let certain = !ALSO_TEXT.contains(&magic) || rest.iter().take(64).any(is_binary);
        certain.then_some(Foreign { name, remedy })
    })
}

/// Zip archives hold the office formats too, which differ in the names of the files inside.
fn zip(head: &[u8]) -> Foreign {
    let holds = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    if holds(b"opendocument") {
        return Foreign { name: "an OpenDocument file (.ods)", remedy: SAVE_AS };
    }
    if holds(b"word/") {
        return Foreign { name: "a Word document (.docx)", remedy: SAVE_AS };
    }
    if holds(b"xl/") || holds(b"[Content_Types].xml") {
        return Foreign { name: "an Excel workbook (.xlsx)", remedy: SAVE_AS };
    }
    let remedy = "use `unzip -p FILE | ethtally backfill --from-csv -`";
    Foreign { name: "a zip archive", remedy }
}

/// The text format, other than CSV, that these first bytes of a decoded text belong to.
pub(super) fn text(head: &[u8]) -> Option<Foreign> {
    let head = head.trim_ascii_start();
    let starts =
        |text: &[u8]| head.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
    if starts(b"version https://git-lfs.") {
        return Some(Foreign { name: "a Git LFS pointer", remedy: "fetch it with `git lfs pull`" });
    }
    if starts(b"<!doctype html") || starts(b"<html") || starts(b"<table") || starts(b"<head") {
        return Some(Foreign {
            name: "HTML",
            remedy: "download the CSV file itself, or save the table as CSV",
        });
    }
    match head {
        [b'<', b'?' | b'!' | b'a'..=b'z' | b'A'..=b'Z', ..] => {
            Some(Foreign { name: "XML", remedy: EXPORT })
        }
        [b'{', rest @ ..] => {
            if !matches!(rest.trim_ascii_start(), [b'"' | b'}', ..]) {
                return None;
            }
            let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            let is_object = |line: &[u8]| line.starts_with(b"{") && line.ends_with(b"}");
            let first_is_object = lines.next().is_some_and(is_object);
            let next_is_object =
                lines.find(|line| !line.is_empty()).is_some_and(|line| line.starts_with(b"{"));
            Some(if first_is_object && next_is_object {
                Foreign {
                    name: "NDJSON (JSON lines)",
                    remedy: "use `jq -r .wallet FILE | ethtally backfill --from-csv -`",
                }
            } else {
                json()
            })
        }
        [b'[', rest @ ..] => match rest.trim_ascii_start() {
            [b'0', b'x' | b'X', ..] => None,
            [b'{' | b'[' | b'"' | b']' | b'0'..=b'9' | b'-', ..] => Some(json()),
            _ => None,
        },
        _ => None,
    }
}

fn json() -> Foreign {
    let remedy = "use `jq -r '.[].wallet' FILE | ethtally backfill --from-csv -`";
    Foreign { name: "JSON", remedy }
}
