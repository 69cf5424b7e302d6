package oracle

import (
	"slices"
	"strings"
)

// comparison is what the oracle and we say of one vulnerability in one package. The oracle may say it several times, for several rows.
type comparison struct {
	where        string
	oracle, ours []finding
}

// both returns what each side says, where both say something.
func (c comparison) both(agrees func(oracle, ours finding) bool) bool {
	return len(c.ours) == 1 && slices.ContainsFunc(c.oracle, func(f finding) bool { return agrees(f, c.ours[0]) })
}

func (c comparison) same() bool {
	return c.both(func(oracle, ours finding) bool { return oracle == ours })
}

// lies reports whether c is about one of the distributions or ecosystems that begin so.
func (c comparison) lies(where ...string) bool {
	return slices.ContainsFunc(where, func(w string) bool { return strings.HasPrefix(c.where, w) })
}

// isLanguage reports whether c is about packages of a language, or runtimes.
func (c comparison) isLanguage() bool {
	return slices.ContainsFunc(languages, func(l language) bool { return l.kind == c.where })
}

// difference is a way in which our findings differ on purpose. docs/scanning.md lists them for operators.
type difference struct {
	name, why string
	explains  func(c comparison) bool
}

// equalBut reports whether two findings are the same once alike has made them so.
func equalBut(alike func(oracle, ours *finding)) func(c comparison) bool {
	return func(c comparison) bool {
		return c.both(func(oracle, ours finding) bool {
			alike(&oracle, &ours)
			return oracle == ours
		})
	}
}

func alikeInSeverity(oracle, ours *finding) { oracle.severity = ours.severity }

// alikeInFix makes findings alike where ours is one of the versions the oracle lists, or none because all of those are older.
func alikeInFix(oracle, ours *finding) {
	if ours.fixed == "" || strings.Contains(oracle.fixed, ours.fixed) {
		oracle.fixed, oracle.status = ours.fixed, ours.status
	}
}

var differences = []difference{
	{
		"next fix", "the oracle lists every version that fixes a package of a language, we the first after the installed one; an older one is no fix",
		func(c comparison) bool { return c.isLanguage() && equalBut(alikeInFix)(c) },
	},
	{
		"github's rating", "where the distribution does not rate, GitHub's reviewers do before NVD, which rates what is worst",
		func(c comparison) bool {
			return equalBut(func(oracle, ours *finding) {
				alikeInSeverity(oracle, ours)
				if c.isLanguage() {
					alikeInFix(oracle, ours)
				}
			})(c) && !c.lies("npm", "pypi", "golang", "maven", "cargo", "nuget", "composer")
		},
	},
	{
		"statuses", "the oracle drops what Ubuntu and Azure Linux say becomes of a vulnerability without a fix",
		func(c comparison) bool {
			return c.lies("ubuntu", "azure", "mariner") && equalBut(func(oracle, ours *finding) {
				alikeInSeverity(oracle, ours)
				oracle.status = ours.status
			})(c)
		},
	},
	{
		"amazon's versions", "the oracle compares Amazon's as if they were Debian's, and passes over those with a caret",
		func(c comparison) bool {
			return c.lies("amazon") && len(c.oracle) == 0 && strings.Contains(c.ours[0].version+c.ours[0].fixed, "^")
		},
	},
	{
		"noarch", "the oracle passes over packages for every architecture of Rocky and Oracle, whose advisories name each",
		func(c comparison) bool {
			return c.lies("rocky", "oracle") && len(c.oracle) == 0 && c.ours[0].arch == "noarch"
		},
	},
	{
		"end of a line", "to the oracle a candidate of the next release is in a tilde's range, to npm itself it is not",
		func(c comparison) bool {
			return c.lies("npm") && len(c.ours) == 0 && strings.Contains(c.oracle[0].version, ".0-")
		},
	},
	{
		"candidates of runtimes", "the oracle takes what follows a hyphen for a revision of the packaging, which is newer than the release",
		func(c comparison) bool {
			return c.lies("generic") && (len(c.ours) == 0 || len(c.oracle) == 0) && strings.Contains(append(c.oracle, c.ours...)[0].version, "-rc")
		},
	},
}
