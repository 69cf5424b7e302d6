package oracle

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	oracleoval "github.com/aquasecurity/trivy-db/pkg/vulnsrc/oracle-oval"
	"github.com/aquasecurity/trivy/pkg/detector/library/compare"
	"github.com/aquasecurity/trivy/pkg/detector/library/compare/maven"
	"github.com/aquasecurity/trivy/pkg/detector/library/compare/npm"
	"github.com/aquasecurity/trivy/pkg/detector/library/compare/pep440"
	"github.com/aquasecurity/trivy/pkg/detector/library/compare/rubygems"
	deb "github.com/knqyf263/go-deb-version"
	rpm "github.com/knqyf263/go-rpm-version"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// What is excused has to follow from the rows. It is worked out here once more, in as few words as possible, with the oracle's own
// orders of versions.

// unrated is what is said of a vulnerability nobody rates.
const unrated = "unrated"

// ratings returns how those who rate it rate the vulnerability of a row: the source of the row, which stands for its distribution
// under another name with Red Hat, and others.
func ratings(a ocitest.Advisory) (source, ghsa, nvd string) {
	by := map[string]string{}
	if a.Severity != "" {
		by[a.Source] = a.Severity
	}
	for who, word := range a.Ratings { // which replace the source's own
		by[who] = word
	}
	source = by[a.Source]
	if a.Source == "redhat-oval" {
		source = cmp.Or(source, by["redhat"])
	}
	return source, by["ghsa"], by["nvd"]
}

// rate returns the severity we are to find for a row.
func rate(a ocitest.Advisory) string {
	source, ghsa, nvd := ratings(a)
	return cmp.Or(a.RowSeverity, source, ghsa, nvd, unrated)
}

// comparers are the oracle's orders of the versions of languages; runtimes are semantic versions, which it does not take them for.
var comparers = map[string]compare.Comparer{
	"npm": npm.Comparer{}, "pypi": pep440.Comparer{}, "maven": maven.Comparer{}, "gem": rubygems.Comparer{},
	"golang": compare.GenericComparer{}, "cargo": compare.GenericComparer{}, "nuget": compare.GenericComparer{}, "composer": compare.GenericComparer{},
	"conan": compare.GenericComparer{}, "generic": compare.GenericComparer{},
}

// affects reports whether by the order of a language a row is about a version.
func affects(kind, version string, a ocitest.Advisory) bool {
	return comparers[kind].IsVulnerable(version, dbtypes.Advisory{
		VulnerableVersions: a.Vulnerable, PatchedVersions: a.Patched, UnaffectedVersions: a.Unaffected,
	})
}

// older reports whether a is before b by the order of a language.
func older(kind, a, b string) bool {
	return affects(kind, a, ocitest.Advisory{Vulnerable: []string{"<" + b}})
}

var bound = regexp.MustCompile(`(<=|>=|~>|[<>=~^]|)\s*([0-9][^\s,]*)`)

// Bounds at which a set of versions begins, and the one at which it ends so that what comes after is not in it.
var (
	begins = []string{"", "=", ">=", "~>", "~", "^"}
	ends   = []string{"<"}
)

// nextFix returns the first version after installed that a row calls patched: where a set of its begins, "1.2.3", ">=1.2.3", "~>1.2.3",
// or, if it calls none patched, where a vulnerable one ends, "<1.2.3". Where no version comes after, it is all that the row calls patched.
func nextFix(kind, installed string, a ocitest.Advisory) string {
	sets, at := a.Patched, begins
	if len(sets) == 0 {
		sets, at = a.Vulnerable, ends
	}
	next := ""
	for alternative := range strings.SplitSeq(strings.Join(sets, "||"), "||") {
		from := ""
		for _, b := range bound.FindAllStringSubmatch(alternative, -1) { // "~> 1.2, >= 1.2.3": all of them
			if slices.Contains(at, b[1]) && (from == "" || older(kind, from, b[2])) {
				from = b[2]
			}
		}
		if from != "" && older(kind, installed, from) && (next == "" || older(kind, from, next)) {
			next = from
		}
	}
	return cmp.Or(next, strings.Join(a.Patched, ", "))
}

var line = regexp.MustCompile(`^[~^]\s*((\d+)\.(\d+)\.(\d+)\S*)$`)

// withEnds returns a row whose lines of npm, "~1.2.3", are written out as npm has them, ">=1.2.3, <1.3.0-0": the end is the first
// candidate of the version after, not that version.
func withEnds(a ocitest.Advisory) ocitest.Advisory {
	for _, sets := range []*[]string{&a.Vulnerable, &a.Patched, &a.Unaffected} {
		*sets = slices.Clone(*sets)
		for i, set := range *sets {
			parts := line.FindStringSubmatch(set)
			if parts == nil {
				continue
			}
			numbers := make([]int, 3)
			for j := range numbers {
				numbers[j], _ = strconv.Atoi(parts[2+j])
			}
			last := 1 // the number that moves at the end: of a tilde the second, of a caret the first that is not zero
			if set[0] == '^' {
				if last = slices.IndexFunc(numbers, func(n int) bool { return n != 0 }); last < 0 {
					last = 2
				}
			}
			numbers[last]++
			clear(numbers[last+1:])
			(*sets)[i] = fmt.Sprintf(">=%s, <%d.%d.%d-0", parts[1], numbers[0], numbers[1], numbers[2])
		}
	}
	return a
}

// newestFix returns the newest of the fixes that rows have for a package of its architecture, and whether that is newer than the one
// installed. Fixes of another of Oracle's flavours are none.
func newestFix(rows []ocitest.Advisory, installed gate.Package) (fixed string, affected bool) {
	for _, a := range rows {
		if installed.Arch != "noarch" && len(a.Arches) > 0 && !slices.Contains(a.Arches, installed.Arch) {
			continue
		}
		if a.Source == "oracle-oval" && oracleoval.PackageFlavor(a.Fixed) != oracleoval.PackageFlavor(installed.Version) {
			continue
		}
		if fixed == "" || rpmOlder(fixed, a.Fixed) {
			fixed = a.Fixed
		}
	}
	return fixed, fixed != "" && rpmOlder(installed.Version, fixed)
}

func rpmOlder(a, b string) bool { return rpm.NewVersion(a).LessThan(rpm.NewVersion(b)) }

// debOlder reports whether a is before b by Debian's order, in which not everything is a version.
func debOlder(a, b string) (bool, error) {
	x, err := deb.NewVersion(a)
	if err != nil {
		return false, err
	}
	y, err := deb.NewVersion(b)
	return err == nil && x.LessThan(y), err
}
