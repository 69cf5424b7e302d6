package gate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// LicenseRule says under which licences packages may be. Licences are compared as SPDX names them (SPDX 2.3, annex D), without regard
// to case; what is no expression of that kind is compared whole.
type LicenseRule struct {
	// Deny are licences that deny, and Allow, unless it is empty, the only ones that do not. "GPL-2.0-or-later" means every version from
	// 2.0 on, '*' any characters. Without an exception an entry stands for the licence with any exception too.
	Deny, Allow []string
	// DenyUnknown denies packages that state no licence.
	DenyUnknown bool
}

const (
	// maxLicenseBytes bounds an expression; what is longer is a text, and compared whole.
	maxLicenseBytes = 4 << 10
	// maxLicenseDepth bounds the parentheses of one.
	maxLicenseDepth = 32
)

// licensing is a licence expression: a licence, or some that hold together, or some to choose from.
type licensing struct {
	// all and any are the operands of AND and OR; at most one is set.
	all, any []licensing
	license
}

// license is one licence, in lower case.
type license struct {
	// versions are the licences it can be taken for: several for "or later". At least one.
	versions []string
	// exception is what follows WITH.
	exception string
	// text is the whole of it.
	text string
}

// orLater is what people write for the "+" of SPDX.
var orLater = regexp.MustCompile(`(?i)[\s,]+\(?or[\s-]+(?:\(at your option\) )?(?:any )?later(?: version)?\)?`)

// parseLicensing reads what a package states of its licence.
func parseLicensing(statement string) licensing {
	statement = strings.Join(strings.Fields(statement), " ")
	if alias, ok := licenseAliases[strings.ToLower(statement)]; ok {
		statement = alias
	}
	whole := licensing{license: license{versions: []string{strings.ToLower(statement)}, text: strings.ToLower(statement)}}
	if len(statement) > maxLicenseBytes || strings.Contains(statement, "://") {
		return whole
	}
	p := licenseParser{tokens: licenseTokens(orLater.ReplaceAllString(statement, "+"))}
	if l, ok := p.expression(0); ok && len(p.tokens) == 0 {
		return l
	}
	return whole
}

// licenseTokens splits an expression into words and parentheses. A slash is how package managers wrote OR before SPDX.
func licenseTokens(s string) []string {
	return strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ", "/", " or ").Replace(strings.ToLower(s)))
}

// licenseParser takes tokens away as it reads them. OR binds less than AND, which binds less than WITH.
type licenseParser struct{ tokens []string }

func (p *licenseParser) take(token string) bool {
	if len(p.tokens) == 0 || p.tokens[0] != token {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

func (p *licenseParser) expression(depth int) (licensing, bool) {
	var operands []licensing
	for {
		l, ok := p.conjunction(depth)
		if !ok {
			return licensing{}, false
		}
		if operands = append(operands, l); !p.take("or") {
			break
		}
	}
	if len(operands) == 1 {
		return operands[0], true
	}
	return licensing{any: operands}, true
}

func (p *licenseParser) conjunction(depth int) (licensing, bool) {
	var operands []licensing
	for {
		l, ok := p.operand(depth)
		if !ok {
			return licensing{}, false
		}
		if operands = append(operands, l); !p.take("and") {
			break
		}
	}
	if len(operands) == 1 {
		return operands[0], true
	}
	return licensing{all: operands}, true
}

func (p *licenseParser) operand(depth int) (licensing, bool) {
	if p.take("(") {
		if depth == maxLicenseDepth {
			return licensing{}, false
		}
		l, ok := p.expression(depth + 1)
		return l, ok && p.take(")")
	}
	words := p.words()
	if len(words) == 0 {
		return licensing{}, false
	}
	if len(words) > 1 && licenseAliases[strings.Join(words, " ")] == "" && !slices.ContainsFunc(words, isNoLicense) {
		var operands []licensing // "GPL2 BSD" is how Alpine wrote AND
		for _, w := range words {
			operands = append(operands, licensing{license: newLicense(w, "")})
		}
		return licensing{all: operands}, true
	}
	exception := ""
	if p.take("with") {
		if exception = strings.Join(p.words(), " "); exception == "" {
			return licensing{}, false
		}
	}
	return licensing{license: newLicense(strings.Join(words, " "), exception)}, true
}

// words takes the words up to the next operator.
func (p *licenseParser) words() []string {
	n := slices.IndexFunc(p.tokens, func(t string) bool { return t == "(" || t == ")" || t == "and" || t == "or" || t == "with" })
	if n < 0 {
		n = len(p.tokens)
	}
	words := p.tokens[:n]
	p.tokens = p.tokens[n:]
	return words
}

// licenseWord matches an identifier with a version in it; those in plainLicenses have none.
var (
	licenseWord   = regexp.MustCompile(`^[a-z][a-z.+-]*[0-9][a-z0-9.+-]*$`)
	plainLicenses = []string{"mit", "bsd", "isc", "zlib", "x11", "openssl", "psf", "custom", "public-domain", "expat", "curl", "ruby", "artistic"}
)

func isNoLicense(word string) bool {
	return !licenseWord.MatchString(word) && !slices.Contains(plainLicenses, word)
}

// licenseForm matches an identifier that ends in a version, in SPDX's spelling or another: "GPL-2.0-or-later", "lgplv2.1+", "gpl2".
var licenseForm = regexp.MustCompile(`^([a-z]+?)[- ]?v?([0-9]+)(\.[0-9]+)?(\+|-only|-or-later)?$`)

// licenseVersions are the versions of the licences of which there are several, ascending.
var licenseVersions = map[string][]string{
	"gpl": {"1.0", "2.0", "3.0"}, "lgpl": {"2.0", "2.1", "3.0"}, "agpl": {"1.0", "3.0"}, "gfdl": {"1.1", "1.2", "1.3"}, "mpl": {"1.0", "1.1", "2.0"},
	"epl": {"1.0", "2.0"}, "apache": {"1.0", "1.1", "2.0"}, "cddl": {"1.0", "1.1"}, "eupl": {"1.0", "1.1", "1.2"}, "artistic": {"1.0", "2.0"},
}

// licenseAliases are names of licences that are no SPDX expression, in lower case, and what they are.
var licenseAliases = map[string]string{
	"expat": "MIT", "mit license": "MIT", "the mit license": "MIT", "the mit license (mit)": "MIT", "mit/x11": "MIT",
	"asl 2.0": "Apache-2.0", "apache 2": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "apache2": "Apache-2.0",
	"apache license, version 2.0": "Apache-2.0", "the apache license, version 2.0": "Apache-2.0", "apache software license": "Apache-2.0",
	"the apache software license, version 2.0": "Apache-2.0", "apache license version 2.0": "Apache-2.0",
	"http://www.apache.org/licenses/license-2.0": "Apache-2.0", "http://www.apache.org/licenses/license-2.0.txt": "Apache-2.0",
	"https://www.apache.org/licenses/license-2.0": "Apache-2.0", "https://www.apache.org/licenses/license-2.0.txt": "Apache-2.0",
	"http://apache.org/licenses/license-2.0": "Apache-2.0", "https://www.apache.org/licenses/license-2.0.html": "Apache-2.0",
	"https://opensource.org/licenses/mit": "MIT", "http://www.opensource.org/licenses/mit-license.php": "MIT",
	"eclipse public license 1.0": "EPL-1.0", "eclipse public license v1.0": "EPL-1.0", "eclipse public license - v 1.0": "EPL-1.0",
	"eclipse public license 2.0": "EPL-2.0", "eclipse public license v2.0": "EPL-2.0", "eclipse public license v. 2.0": "EPL-2.0",
	"http://www.eclipse.org/legal/epl-v10.html": "EPL-1.0", "https://www.eclipse.org/legal/epl-2.0/": "EPL-2.0",
	// Without a version a licence of the GNU project is any of them, to choose from (GPL-3.0, section 14).
	"gpl": "GPL-1.0-or-later", "gpl+": "GPL-1.0-or-later", "lgpl": "LGPL-2.0-or-later", "lgpl+": "LGPL-2.0-or-later",
	"agpl": "AGPL-1.0-or-later", "agpl+": "AGPL-1.0-or-later", "gfdl": "GFDL-1.1-or-later", "gfdl+": "GFDL-1.1-or-later",
	"gnu agplv3": "AGPL-3.0-only", "gnu affero general public license v3": "AGPL-3.0-only",
	"gnu affero general public license v3 or later (agplv3+)": "AGPL-3.0-or-later",
	"gnu general public license v2 (gplv2)":                   "GPL-2.0-only", "gnu general public license v3 (gplv3)": "GPL-3.0-only",
	"gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later", "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
	"gnu general public license, version 2": "GPL-2.0-only", "gnu general public license, version 3": "GPL-3.0-only",
	"bsd license": "BSD", "bsd-3": "BSD-3-Clause", "bsd-2": "BSD-2-Clause", "new bsd license": "BSD-3-Clause", "python software foundation license": "PSF-2.0",
}

// newLicense reads one licence, in lower case.
func newLicense(name, exception string) license {
	if alias, ok := licenseAliases[name]; ok {
		name = strings.ToLower(alias)
	}
	text := name
	if exception != "" {
		text += " with " + exception
	}
	parts := licenseForm.FindStringSubmatch(name)
	if parts == nil || licenseVersions[parts[1]] == nil {
		return license{[]string{strings.TrimSuffix(strings.TrimSuffix(name, "+"), "-or-later")}, exception, text}
	}
	minor := parts[3]
	if minor == "" {
		minor = ".0"
	}
	version := parts[2] + minor
	versions := []string{parts[1] + "-" + version}
	if parts[4] == "+" || parts[4] == "-or-later" {
		all := licenseVersions[parts[1]]
		if i := slices.Index(all, version); i >= 0 {
			for _, later := range all[i+1:] {
				versions = append(versions, parts[1]+"-"+later)
			}
		}
	}
	return license{versions, exception, text}
}

// licenseEntry is one licence of a policy's list.
type licenseEntry struct {
	pattern Glob // instead of the rest when it has a '*'
	license
}

func licenseEntries(list []string) []licenseEntry {
	var entries []licenseEntry
	for _, t := range list {
		if strings.Contains(t, "*") {
			entries = append(entries, licenseEntry{pattern: Glob(t).folded()})
			continue
		}
		l := parseLicensing(t)
		if len(l.versions) == 0 { // an expression, which names no one licence
			l.license = license{versions: []string{strings.ToLower(t)}, text: strings.ToLower(t)}
		}
		entries = append(entries, licenseEntry{license: l.license})
	}
	return entries
}

// covers reports whether the entry means the version of l.
func (n licenseEntry) covers(l license, version string) bool {
	switch {
	case n.pattern != "":
		return n.pattern.Match(version) || n.pattern.Match(version+"-only") || n.pattern.Match(l.text)
	case n.text == l.text:
		return true
	}
	return slices.Contains(n.versions, version) && (n.exception == "" || n.exception == l.exception)
}

// licenses are the lists of a rule, read once for all packages of an image, with what was found out about statements.
type licenses struct {
	deny, allow []licenseEntry
	// passing maps statements to whether they pass.
	passing map[string]bool
}

// passes reports whether one of the licences to choose from is allowed and not denied.
func (r *licenses) passes(l licensing) bool {
	switch {
	case len(l.all) > 0:
		return !slices.ContainsFunc(l.all, func(l licensing) bool { return !r.passes(l) })
	case len(l.any) > 0:
		return slices.ContainsFunc(l.any, r.passes)
	}
	return slices.ContainsFunc(l.versions, func(version string) bool {
		covers := func(n licenseEntry) bool { return n.covers(l.license, version) }
		return !slices.ContainsFunc(r.deny, covers) && (len(r.allow) == 0 || slices.ContainsFunc(r.allow, covers))
	})
}

// passesStatement is passes for what a package states.
func (r *licenses) passesStatement(s string) bool {
	passing, known := r.passing[s]
	if !known {
		passing = r.passes(parseLicensing(s))
		r.passing[s] = passing
	}
	return passing
}

// choosable are the package managers to which several licences of one package are a choice; to the others all of them hold.
var choosable = []string{"npm", "composer", "gem", "maven"}

func licenseReasons(p Policy, e Evidence) []Reason {
	if p.Licenses == nil {
		return nil
	}
	r := licenses{licenseEntries(p.Licenses.Deny), licenseEntries(p.Licenses.Allow), map[string]bool{}}
	var reasons []Reason
	for _, f := range e.Inventory.Packages {
		if len(f.Licenses) == 0 {
			if p.Licenses.DenyUnknown {
				reasons = append(reasons, Reason{Rule: RuleLicenses, Message: fmt.Sprintf("package %s states no licence", f.told())})
			}
			continue
		}
		fails := func(s string) bool { return !r.passesStatement(s) }
		denied := slices.ContainsFunc(f.Licenses, fails)
		operator := " AND "
		if slices.Contains(choosable, f.Type) {
			denied, operator = !slices.ContainsFunc(f.Licenses, r.passesStatement), " OR "
		}
		if denied {
			licence := clip(strings.Join(f.Licenses, operator), maxTold)
			reasons = append(reasons, Reason{Rule: RuleLicenses, Message: fmt.Sprintf("licence %q of package %s is not allowed", licence, f.told())})
		}
	}
	return bounded(reasons)
}
