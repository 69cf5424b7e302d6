package scan

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/osv-scalibr/semantic"
)

// errUnknownVersion says that two versions cannot be compared, because one of them is none in its ecosystem.
var errUnknownVersion = errors.New("version cannot be compared")

// maxVersionBytes is far above the longest version any ecosystem has; comparing costs the square of the length.
const maxVersionBytes = 256

// versionOrder names how versions compare, in the words of the library that compares them.
type versionOrder string

// The orders. All rpm distributions share one, all apk distributions another.
const (
	orderDeb       versionOrder = "Debian"
	orderAPK       versionOrder = "Alpine"
	orderRPM       versionOrder = "Red Hat"
	orderNPM       versionOrder = "npm"
	orderPyPI      versionOrder = "PyPI"
	orderGo        versionOrder = "Go"
	orderMaven     versionOrder = "Maven"
	orderGem       versionOrder = "RubyGems"
	orderCargo     versionOrder = "crates.io"
	orderNuGet     versionOrder = "NuGet"
	orderPackagist versionOrder = "Packagist"
	orderConan     versionOrder = "ConanCenter"
	// orderBitnami is semantic versions with a revision of the packaging, which programs as their makers release them do not have.
	orderBitnami versionOrder = "Bitnami"
)

var semanticVersion = regexp.MustCompile(`^v?\d+(\.\d+){0,2}([-+_~a-zA-Z].*)?$`)

// versionForms are the versions that have a place in each order. The library places everything somewhere, "master" below 1.0 for
// one; an image that could choose its versions freely would hide from advisories there.
var versionForms = map[versionOrder]*regexp.Regexp{
	orderDeb:   regexp.MustCompile(`^(\d+:)?[0-9A-Za-z.+~:-]*[0-9][0-9A-Za-z.+~:-]*$`),
	orderAPK:   regexp.MustCompile(`^\d+(\.\d+)*[a-z]?(_(alpha|beta|pre|rc|cvs|svn|git|hg|p)\d*)*(~[0-9a-f]+)?(-r\d+)?$`),
	orderRPM:   regexp.MustCompile(`^(\d+:)?[^:]*[0-9A-Za-z][^:]*$`),
	orderNPM:   semanticVersion,
	orderGo:    semanticVersion,
	orderCargo: semanticVersion,
	orderPyPI: regexp.MustCompile(`(?i)^v?(\d+!)?\d+(\.\d+)*([-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?` +
		`(?P<post>-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?$`),
	orderMaven:     regexp.MustCompile(`^[^${}\[\](),]*\d[^${}\[\](),]*$`),
	orderGem:       regexp.MustCompile(`^\d+(\.[0-9a-zA-Z]+)*(-[0-9A-Za-z.-]+)?$`),
	orderNuGet:     regexp.MustCompile(`^\d+(\.\d+){0,3}([-+].*)?$`),
	orderConan:     regexp.MustCompile(`^\d+(\.[0-9A-Za-z]+)*([-+].*)?$`),
	orderBitnami:   regexp.MustCompile(`^\d+(\.\d+)*([-+].*)?$`),
	orderPackagist: regexp.MustCompile(`^[vV]?\d+(\.\d+)*([-+_.]?[a-zA-Z].*)?$`),
}

// misreadIdentifier matches what the library takes for a negative number where semantic versions have a word.
var misreadIdentifier = regexp.MustCompile(`[.-]-\d+(?:[.+]|$)`)

// checkVersion reports whether text is a version in order.
func checkVersion(order versionOrder, text string) error {
	form, ok := versionForms[order]
	if !ok || len(text) > maxVersionBytes || strings.ContainsFunc(text, notInVersion) || !form.MatchString(text) ||
		form == semanticVersion && misreadIdentifier.MatchString(text) {
		return fmt.Errorf("%w: %s is none of %s", errUnknownVersion, quoted(text), order)
	}
	return nil
}

// notInVersion reports whether r is in no version anywhere: spaces, controls, and whatever is not ASCII.
func notInVersion(r rune) bool { return r <= ' ' || r > '~' }

// installedVersion is the version of an installed package, ready to be compared many times.
type installedVersion struct {
	order  versionOrder
	text   string
	parsed semantic.Version
	// unknown is why it cannot be compared, when it cannot; parsed is then nil.
	unknown error
}

// newInstalledVersion returns the version of an installed package, which may be one that cannot be compared.
func newInstalledVersion(order versionOrder, text string) installedVersion {
	v, err := parseVersion(order, text)
	if err != nil {
		return installedVersion{order: order, text: text, unknown: err}
	}
	return v
}

// parseVersion reads the version of an installed package. PyPI's local part ("+local") is dropped, as it is of what it is
// compared with: advisories hardly ever have one, and PEP 440 compares without it then.
func parseVersion(order versionOrder, text string) (v installedVersion, err error) {
	if order == orderPyPI {
		text, _, _ = strings.Cut(text, "+")
	}
	if err := checkVersion(order, text); err != nil {
		return installedVersion{}, err
	}
	defer recoverUnknownVersion(&err)
	parsed, err := semantic.Parse(text, string(order))
	if err != nil {
		return installedVersion{}, fmt.Errorf("%w: %v", errUnknownVersion, err)
	}
	return installedVersion{order: order, text: text, parsed: parsed}, nil
}

// compare returns how v compares with another version of its order: -1 when v is older, 0 when they are the same, +1 when v is newer.
func (v installedVersion) compare(other string) (c int, err error) {
	if v.unknown != nil {
		return 0, v.unknown
	}
	if v.order == orderPyPI {
		other, _, _ = strings.Cut(other, "+")
	}
	if err := checkVersion(v.order, other); err != nil {
		return 0, err
	}
	defer recoverUnknownVersion(&err)
	c, err = v.parsed.CompareStr(other)
	if err != nil {
		return 0, fmt.Errorf("%w: %v", errUnknownVersion, err)
	}
	return c, nil
}

// compareVersions compares two versions of order.
func compareVersions(order versionOrder, a, b string) (int, error) {
	v, err := parseVersion(order, a)
	if err != nil {
		return 0, err
	}
	return v.compare(b)
}

// recoverUnknownVersion makes an error of a panic of the library that compares, which reads what an image's author wrote.
func recoverUnknownVersion(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", errUnknownVersion, p)
	}
}

// maxQuotedBytes bounds what is quoted of an image or an advisory in a sentence for people.
const maxQuotedBytes = 80

// quoted returns text for a sentence: escaped, and cut if it is long.
func quoted(text string) string {
	if len(text) > maxQuotedBytes {
		return fmt.Sprintf("%q…", text[:maxQuotedBytes])
	}
	return fmt.Sprintf("%q", text)
}
