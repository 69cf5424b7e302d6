package report

import (
	"regexp"
	"slices"
	"strings"
)

// knownLicenses are the identifiers of the SPDX license list that packages commonly state. What is not among them is passed on as the
// text it is; taking a text for an identifier would say something nobody said.
var knownLicenses = map[string]bool{
	"0BSD": true, "AFL-2.1": true, "AFL-3.0": true, "AGPL-3.0-only": true, "AGPL-3.0-or-later": true, "Apache-1.1": true, "Apache-2.0": true,
	"Artistic-1.0-Perl": true, "Artistic-2.0": true, "BlueOak-1.0.0": true, "BSD-1-Clause": true, "BSD-2-Clause": true, "BSD-3-Clause": true,
	"BSD-4-Clause": true, "BSL-1.0": true, "CC-BY-3.0": true, "CC-BY-4.0": true, "CC-BY-SA-3.0": true, "CC-BY-SA-4.0": true, "CC0-1.0": true,
	"CDDL-1.0": true, "CDDL-1.1": true, "curl": true, "EPL-1.0": true, "EPL-2.0": true, "EUPL-1.2": true, "FTL": true, "GFDL-1.3-or-later": true,
	"GPL-1.0-or-later": true, "GPL-2.0-only": true, "GPL-2.0-or-later": true, "GPL-3.0-only": true, "GPL-3.0-or-later": true, "HPND": true,
	"ICU": true, "IJG": true, "ISC": true, "LGPL-2.0-only": true, "LGPL-2.0-or-later": true, "LGPL-2.1-only": true, "LGPL-2.1-or-later": true,
	"LGPL-3.0-only": true, "LGPL-3.0-or-later": true, "libpng-2.0": true, "LPL-1.02": true, "MIT": true, "MIT-0": true, "MPL-1.1": true,
	"MPL-2.0": true, "MS-PL": true, "NCSA": true, "OFL-1.1": true, "OLDAP-2.8": true, "OpenSSL": true, "PHP-3.01": true, "PostgreSQL": true,
	"PSF-2.0": true, "Python-2.0": true, "Ruby": true, "SISSL": true, "Unicode-3.0": true, "Unlicense": true, "Vim": true, "W3C": true,
	"WTFPL": true, "X11": true, "Zlib": true, "ZPL-2.1": true,
}

// knownExceptions are those of the SPDX list that may follow WITH.
var knownExceptions = map[string]bool{
	"Autoconf-exception-3.0": true, "Bison-exception-2.2": true, "Classpath-exception-2.0": true, "GCC-exception-2.0": true, "GCC-exception-3.1": true,
	"Libtool-exception": true, "Linux-syscall-note": true, "LLVM-exception": true, "OpenJDK-assembly-exception-1.0": true,
}

// licenseToken matches one word or parenthesis of an SPDX expression (SPDX 2.3, annex D).
var licenseToken = regexp.MustCompile(`\(|\)|[^\s()]+`)

// maxLicenseTokens bounds an expression. Real ones have a dozen.
const maxLicenseTokens = 200

// isExpression reports whether text is an SPDX expression of licenses that are known.
func isExpression(text string) bool {
	tokens := licenseToken.FindAllString(text, maxLicenseTokens+1)
	p := licenseParser{tokens: tokens}
	return len(tokens) <= maxLicenseTokens && p.alternatives() && len(p.tokens) == 0
}

// licenseParser consumes the tokens of an expression. Its methods report whether what they stand for was there.
type licenseParser struct{ tokens []string }

func (p *licenseParser) next() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *licenseParser) take() string {
	token := p.next()
	p.tokens = p.tokens[min(1, len(p.tokens)):]
	return token
}

// alternatives is licenses joined by AND and OR, whose precedence does not matter to whether it is one.
func (p *licenseParser) alternatives() bool {
	for p.license() {
		if p.next() != "AND" && p.next() != "OR" {
			return true
		}
		p.take()
	}
	return false
}

func (p *licenseParser) license() bool {
	if p.next() == "(" {
		p.take()
		return p.alternatives() && p.take() == ")"
	}
	if !knownLicenses[strings.TrimSuffix(p.take(), "+")] {
		return false
	}
	if p.next() == "WITH" {
		p.take()
		return knownExceptions[p.take()]
	}
	return true
}

// stated returns what a package says of its licenses, each once, empty ones left out.
func stated(licenses []string) []string {
	var all []string
	for _, l := range licenses {
		if l = strings.TrimSpace(l); l != "" && !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}
