use proptest::prelude::*;
use proptest::sample::select;

use super::readers::{Reader, is_api, is_core};
use super::*;

fn verdict(path: &str) -> String {
    match classify(path) {
        Ok(class) => match rewritten(class, path) {
            Some(sent) => format!("{class:?} gets {sent}"),
            None => format!("{class:?}"),
        },
        Err(Ambiguous) => "400".to_owned(),
    }
}

#[test]
fn every_path_has_one_class_or_none() {
    let paths = [
        // The four classes, by whole segments and with regard to case.
        "/",
        "/about",
        "/.cial",
        "/.cial/",
        "/.cial/whatever",
        "/.cial/ws",
        "/.cial/wake",
        "/.cial/api",
        "/.cial/api/",
        "/.cial/api/healthz",
        "/.cial/apix",
        "/.cial/sso",
        "/.cial/sso/",
        "/.cial/sign-in",
        "/.cial/sign-in/x",
        "/.cial/sign-out",
        "/.cial/sign-outs",
        "/.cialx",
        "/.CIAL",
        "/.Cial/api",
        "/x/.cial",
        "/api/p/health",
        // Unusual but valid paths keep their class.
        "/a%20b",
        "/a%2fb",
        "/caf%C3%A9",
        "/100%",
        "/a;v=1/b",
        "/a//b",
        "/a/./b",
        "/a/../b",
        "/a\\b",
        "/.cial/a%20b",
        "/.cial/api/echo-path/a%2fb",
        "/.cial/api/echo-path/.cial",
        // Without its prefix the path would have another class.
        "/.cial/api/.cial/sso",
        // Encoded dots and slashes.
        "/.cial%2fapi",
        "/.cial%2Fapi",
        "/%2ecial",
        "/%2Ecial/api",
        "/.%63ial",
        "/.cial/%61pi",
        "/.cial/ss%6f",
        "/.cial%2fsso",
        "/%252ecial",
        "/%25252ecial",
        "/%2525252ecial",
        "/a%2525252525",
        "/..%2f.cial",
        "/x/%2e%2e/.cial",
        "/.cial/api/%2e%2e/x",
        "/.cial/api%2f..%2fx",
        "/.cial%5capi",
        // Plain dots and slashes.
        "//.cial",
        "/x/../.cial/api",
        "/./.cial",
        "/.cial/../",
        "/.cial/./api",
        "/.cial//api",
        "/.cial//sso",
        "/.cial/x/../api/y",
        "/.cial/api/../../x",
        "/\\.cial",
        "/.cial\\api",
        "/x\\..\\.cial",
        // Parameters, late queries, truncated paths.
        "/.cial;x",
        "/.cial;x/api",
        "/.cial/api;x",
        "/.cial/api;x/healthz",
        "/.cial/sso;x",
        "/x/..;/.cial",
        "/x/../.cial/..;/y",
        "/.cial%3fx",
        "/.cial%23",
        "/.cial/api%3f",
        "/.cial%00",
        "/a%00b",
    ];
    let table: Vec<String> = paths.map(|path| format!("{path:32}{}", verdict(path))).into();
    insta::assert_snapshot!(table.join("\n"), @r"
    /                               Platform
    /about                          Platform
    /.cial                          CoreFront
    /.cial/                         CoreFront
    /.cial/whatever                 CoreFront
    /.cial/ws                       CoreFront
    /.cial/wake                     CoreFront
    /.cial/api                      CoreApi gets /
    /.cial/api/                     CoreApi gets /
    /.cial/api/healthz              CoreApi gets /healthz
    /.cial/apix                     CoreFront
    /.cial/sso                      SignIn
    /.cial/sso/                     CoreFront
    /.cial/sign-in                  SignIn
    /.cial/sign-in/x                CoreFront
    /.cial/sign-out                 SignIn
    /.cial/sign-outs                CoreFront
    /.cialx                         Platform
    /.CIAL                          Platform
    /.Cial/api                      Platform
    /x/.cial                        Platform
    /api/p/health                   Platform
    /a%20b                          Platform
    /a%2fb                          Platform
    /caf%C3%A9                      Platform
    /100%                           Platform
    /a;v=1/b                        Platform
    /a//b                           Platform
    /a/./b                          Platform
    /a/../b                         Platform
    /a\b                            Platform
    /.cial/a%20b                    CoreFront
    /.cial/api/echo-path/a%2fb      CoreApi gets /echo-path/a%2fb
    /.cial/api/echo-path/.cial      CoreApi gets /echo-path/.cial
    /.cial/api/.cial/sso            400
    /.cial%2fapi                    400
    /.cial%2Fapi                    400
    /%2ecial                        400
    /%2Ecial/api                    400
    /.%63ial                        400
    /.cial/%61pi                    400
    /.cial/ss%6f                    400
    /.cial%2fsso                    400
    /%252ecial                      400
    /%25252ecial                    400
    /%2525252ecial                  400
    /a%2525252525                   400
    /..%2f.cial                     400
    /x/%2e%2e/.cial                 400
    /.cial/api/%2e%2e/x             400
    /.cial/api%2f..%2fx             400
    /.cial%5capi                    400
    //.cial                         400
    /x/../.cial/api                 400
    /./.cial                        400
    /.cial/../                      400
    /.cial/./api                    400
    /.cial//api                     400
    /.cial//sso                     400
    /.cial/x/../api/y               400
    /.cial/api/../../x              400
    /\.cial                         400
    /.cial\api                      400
    /x\..\.cial                     400
    /.cial;x                        400
    /.cial;x/api                    400
    /.cial/api;x                    400
    /.cial/api;x/healthz            400
    /.cial/sso;x                    400
    /x/..;/.cial                    400
    /x/../.cial/..;/y               400
    /.cial%3fx                      400
    /.cial%23                       400
    /.cial/api%3f                   400
    /.cial%00                       400
    /a%00b                          400
    ");
}

#[test]
fn a_query_stays_with_its_path() {
    assert_eq!(rewritten(Class::CoreApi, "/.cial/api?x=1"), Some("/?x=1".to_owned()));
    assert_eq!(rewritten(Class::CoreApi, "/.cial/api/a?b=/../c"), Some("/a?b=/../c".to_owned()));
    assert_eq!(rewritten(Class::CoreFront, "/.cial/a?b"), None);
}

fn paths() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "/", "/", "/", ".", "..", ".cial", ".cial", "api", "sso", "x", "%2e", "%2f", "%2F", "%5c",
        "\\", "%25", "25", "2e", "2f", ";", "%3b", ";v=1", "%3f", "?", "#", "%23", "C", "%63",
        "%2", "%", "%00",
    ]);
    prop::collection::vec(piece, 0..10).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn never_core_on_one_side_and_platform_on_the_other(
        path in paths(),
        chain in prop::collection::vec(select(&Reader::ALL[..]), 0..6),
    ) {
        let Ok(class) = classify(&path) else { return Ok(()) };
        let mut read = path.clone();
        let mut decodings = 0;
        for reader in chain {
            decodings += usize::from(matches!(reader, Reader::Decode));
            if decodings <= MAX_DECODINGS {
                read = reader.read(&read);
            }
            prop_assert_eq!(class != Class::Platform, is_core(&read), "{} as {}", path, read);
            prop_assert_eq!(class == Class::CoreApi, is_api(&read), "{} as {}", path, read);
        }
    }

    #[test]
    fn the_short_way_decides_as_the_long_one(path in paths()) {
        if is_plain(&path) {
            let class = class_of(path.as_bytes());
            let readings = readings(&path).unwrap();
            prop_assert!(readings.iter().all(|reading| class_of(reading) == class));
        }
    }

    #[test]
    fn what_is_sent_on_begins_with_a_slash(path in paths()) {
        if let Ok(class) = classify(&path) {
            prop_assert!(rewritten(class, &path).is_none_or(|sent| sent.starts_with('/')));
        }
    }
}
