package oracle

import (
	"cmp"
	"slices"
	"strings"

	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// comparison is what the oracle and we say of one vulnerability in one package, and the rows of the vulnerability.
type comparison struct {
	where        string
	oracle, ours []finding
	installed    gate.Found
	rows         []ocitest.Advisory
}

// aspect is what two findings can differ in.
type aspect string

const (
	presence aspect = "presence"
	severity aspect = "severity"
	state    aspect = "state"   // and fix
	subject  aspect = "subject" // the package it is about, or that we say it twice: for this there is no reason
)

// differing returns in what both sides differ.
func (c comparison) differing() (aspects []aspect) {
	if len(c.ours) > 1 || len(c.ours) == 1 && !c.ours[0].isOf(c.installed) {
		return []aspect{subject}
	}
	if len(c.oracle) == 0 || len(c.ours) == 0 {
		return []aspect{presence}
	}
	oracle, ours := c.said(), c.ours[0]
	if oracle.severity != ours.severity {
		aspects = append(aspects, severity)
	}
	if oracle.status != ours.status || oracle.fixed != ours.fixed {
		aspects = append(aspects, state)
	}
	return aspects
}

// said returns what the oracle says in the end, where it says it once for each row: the newest fix, which an image needs.
func (c comparison) said() finding {
	return slices.MaxFunc(c.oracle, func(a, b finding) int {
		switch {
		case rpmOlder(a.fixed, b.fixed):
			return -1
		case rpmOlder(b.fixed, a.fixed):
			return +1
		}
		return 0
	})
}

// reasons returns the names of what explains every aspect in which both sides differ; ok is false where one is not.
func (c comparison) reasons() (names []string, ok bool) {
	for _, a := range c.differing() {
		i := slices.IndexFunc(differences, func(d difference) bool { return d.of == a && d.explains(c) })
		if i < 0 {
			return nil, false
		}
		names = append(names, differences[i].name)
	}
	return names, true
}

// lies reports whether c is about one of the distributions or ecosystems that begin so.
func (c comparison) lies(where ...string) bool {
	return slices.ContainsFunc(where, func(w string) bool { return strings.HasPrefix(c.where, w) })
}

// isLanguage reports whether c is about packages of a language, or runtimes.
func (c comparison) isLanguage() bool { return comparers[c.where] != nil }

// onlyOurs reports whether c is a finding of ours alone, which follows from the rows of a package of rpm's.
func (c comparison) onlyOurs() bool {
	if len(c.oracle) > 0 {
		return false
	}
	f := c.ours[0]
	fixed, affected := newestFix(c.rows, c.installed.Package)
	return affected && f.fixed == fixed && f.status == "fixed" && f.severity == rate(c.rows[0])
}

// isAsByOrder reports whether the finding of c, or the lack of one, is what follows from a row for the version installed.
func (c comparison) isAsByOrder(a ocitest.Advisory) bool {
	if affects(c.where, c.installed.Version, a) != (len(c.ours) > 0) {
		return false
	}
	return len(c.ours) == 0 || c.hasNextFix() && c.ours[0].severity == rate(a)
}

// hasNextFix reports whether our finding, of a language, has the fix there is for the version installed.
func (c comparison) hasNextFix() bool {
	f := c.ours[0]
	next := nextFix(c.where, c.installed.Version, c.rows[0])
	return f.fixed == next && f.status == map[bool]string{true: "affected", false: "fixed"}[next == ""]
}

// difference is a way in which our findings differ on purpose. docs/scanning.md lists them for operators. It excuses what it says and
// nothing else: explains works out from the rows what either side has to say then.
type difference struct {
	name, why string
	of        aspect
	explains  func(c comparison) bool
}

var differences = []difference{
	{
		"next fix", "the oracle lists every version that fixes a package of a language, we the first after the installed one; an older one is no fix",
		state, func(c comparison) bool { return c.isLanguage() && c.hasNextFix() },
	},
	{
		"github's rating", "where the distribution does not rate, GitHub's reviewers do before NVD, which rates what is worst",
		severity, func(c comparison) bool {
			source, ghsa, nvd := ratings(c.rows[0])
			return c.rows[0].RowSeverity == "" && source == "" && ghsa != "" && c.ours[0].severity == ghsa && c.said().severity == cmp.Or(nvd, unrated)
		},
	},
	{
		"red hat's rows", "the oracle takes what Red Hat does not rate for a product for unrated, we go on and ask who rates the vulnerability",
		severity, func(c comparison) bool {
			a := c.rows[0]
			return a.Bucket == "Red Hat" && a.RowSeverity == "" && a.Severity == "" && c.said().severity == unrated && c.ours[0].severity == rate(a)
		},
	},
	{
		"statuses", "the oracle drops what Ubuntu and Azure Linux say becomes of a vulnerability without a fix",
		state, func(c comparison) bool {
			a, f := c.rows[0], c.ours[0]
			return c.lies("ubuntu", "azure", "mariner") && a.Fixed == "" && f.fixed == "" && c.said().fixed == "" &&
				f.status == dbtypes.Statuses[a.Status] && c.said().status == "affected"
		},
	},
	{
		"amazon's versions", "the oracle compares Amazon's as if they were Debian's, and passes over those with a caret",
		presence, func(c comparison) bool {
			_, affected := newestFix(c.rows, c.installed.Package)
			asDebian, err := debOlder(c.installed.Version, c.rows[0].Fixed)
			return c.lies("amazon") && affected != (err == nil && asDebian) && (c.onlyOurs() || !affected && len(c.ours) == 0)
		},
	},
	{
		"noarch", "the oracle passes over packages for every architecture of Rocky and Oracle, whose advisories name each",
		presence, func(c comparison) bool {
			return c.lies("rocky", "oracle") && c.onlyOurs() && c.installed.Arch == "noarch"
		},
	},
	{
		"end of a line", "to the oracle a candidate of the next release is in a tilde's range, to npm itself it is not",
		presence, func(c comparison) bool { return c.lies("npm") && c.isAsByOrder(withEnds(c.rows[0])) },
	},
	{
		"candidates of runtimes", "the oracle takes what follows a hyphen for a revision of the packaging, which is newer than the release",
		presence, func(c comparison) bool {
			return c.lies("generic") && strings.HasSuffix(c.installed.Version, "-rc1") && c.isAsByOrder(c.rows[0])
		},
	},
}
