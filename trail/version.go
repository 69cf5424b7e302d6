package trail

import "regexp"

// version is a tag that looks like a version: one to four numbers with dots between them, with or without a v in front, and perhaps
// something behind them, as in 1.27-alpine, 1.2.3-rc1 or 3.9rc2. A single number needs the v: without it is as often a build or a day.
var version = regexp.MustCompile(`^(?:v[0-9]+(?:\.[0-9]+){0,3}|[0-9]+(?:\.[0-9]+){1,3})(?:[-_.]?[0-9A-Za-z][0-9A-Za-z._-]*)?$`)

// LooksLikeVersion reports whether people take tag for the name of one version, which should go on being what it was.
func LooksLikeVersion(tag string) bool { return version.MatchString(tag) }
