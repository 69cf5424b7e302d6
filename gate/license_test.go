package gate

import (
	"strings"
	"testing"
)

func TestLicences(t *testing.T) {
	for name, tt := range map[string]struct {
		deny, allow []string
		statement   string
		want        bool // that it passes
	}{
		"another licence":                                {[]string{"AGPL-3.0-only"}, nil, "MIT", true},
		"the licence":                                    {[]string{"AGPL-3.0-only"}, nil, "AGPL-3.0-only", false},
		"in another case":                                {[]string{"agpl-3.0-ONLY"}, nil, "Agpl-3.0-only", false},
		"by its old name":                                {[]string{"AGPL-3.0-only"}, nil, "AGPL-3.0", false},
		"or later, where nothing is later":               {[]string{"AGPL-3.0-only"}, nil, "AGPL-3.0-or-later", false},
		"or later, where something is":                   {[]string{"GPL-2.0-only"}, nil, "GPL-2.0-or-later", true},
		"or later, where that is denied too":             {[]string{"GPL-2.0-only", "GPL-3.0-only"}, nil, "GPL-2.0+", false},
		"a denied or later means what is later":          {[]string{"GPL-2.0-or-later"}, nil, "GPL-3.0-only", false},
		"and not what is earlier":                        {[]string{"GPL-2.0-or-later"}, nil, "GPL-1.0-or-later", true},
		"one of two to choose from":                      {[]string{"GPL-3.0-only"}, nil, "MIT OR GPL-3.0-only", true},
		"both of two to choose from":                     {[]string{"GPL-3.0-only", "MIT"}, nil, "MIT OR GPL-3.0-only", false},
		"one of two that both hold":                      {[]string{"GPL-3.0-only"}, nil, "MIT AND GPL-3.0-only", false},
		"AND binds more than OR":                         {[]string{"GPL-3.0-only"}, nil, "MIT OR BSD-3-Clause AND GPL-3.0-only", true},
		"parentheses":                                    {[]string{"GPL-3.0-only"}, nil, "(MIT OR BSD-3-Clause) AND GPL-3.0-only", false},
		"operators in lower case, as rpm has them":       {[]string{"GPL-3.0-only"}, nil, "MIT and (GPLv3 or ISC)", true},
		"an exception does not help":                     {[]string{"GPL-2.0-only"}, nil, "GPL-2.0-only WITH Classpath-exception-2.0", false},
		"unless only another one is denied":              {[]string{"GPL-2.0-only WITH GCC-exception-2.0"}, nil, "GPL-2.0-only WITH Classpath-exception-2.0", true},
		"the licence with the exception":                 {[]string{"GPL-2.0-only WITH Classpath-exception-2.0"}, nil, "gpl-2.0-only with classpath-exception-2.0", false},
		"and without it":                                 {[]string{"GPL-2.0-only WITH Classpath-exception-2.0"}, nil, "GPL-2.0-only", true},
		"Debian's names":                                 {[]string{"GPL-2.0-or-later"}, nil, "GPL-2+ with OpenSSL exception", false},
		"Red Hat's names":                                {[]string{"LGPL-2.1-or-later"}, nil, "LGPLv2.1+", false},
		"Alpine's old lists":                             {[]string{"GPL-2.0-only"}, nil, "BSD GPL2", false},
		"words that are a name":                          {nil, []string{"Apache-2.0"}, "Apache License, Version 2.0", true},
		"or later in words":                              {[]string{"GPL-3.0-or-later"}, nil, "GPL v3 or any later version", false},
		"no version is any version":                      {[]string{"GPL-*"}, nil, "GPL", false},
		"of which one may be chosen":                     {[]string{"GPL-3.0-only"}, nil, "gpl+", true},
		"a slash to choose":                              {[]string{"Apache-2.0"}, nil, "MIT/Apache-2.0", true},
		"a pattern":                                      {[]string{"GPL-*", "AGPL-*"}, nil, "GPL-2.0-or-later", false},
		"a pattern is of the whole":                      {[]string{"GPL-*"}, nil, "LGPL-2.1-only", true},
		"unknown text is compared whole":                 {[]string{"Acme Proprietary"}, nil, "acme  proprietary", false},
		"and no part of it":                              {[]string{"Acme"}, nil, "acme proprietary", true},
		"a reference":                                    {[]string{"LicenseRef-acme"}, nil, "LicenseRef-Acme AND MIT", false},
		"allowed":                                        {nil, []string{"MIT"}, "MIT", true},
		"not among the allowed":                          {nil, []string{"MIT"}, "ISC", false},
		"one of the allowed to choose":                   {nil, []string{"MIT"}, "ISC OR MIT", true},
		"not all of them are allowed":                    {nil, []string{"MIT"}, "ISC AND MIT", false},
		"an allowed version to choose":                   {nil, []string{"GPL-3.0-only"}, "GPL-2.0-or-later", true},
		"denied though allowed":                          {[]string{"GPL-3.0-only"}, []string{"GPL-*"}, "GPL-3.0-only", false},
		"nonsense is not allowed":                        {nil, []string{"MIT"}, "(MIT", false},
		"too deep is text":                               {nil, []string{"MIT"}, strings.Repeat("(", 1000) + "MIT" + strings.Repeat(")", 1000), false},
		"an address is text":                             {nil, []string{"MIT"}, "https://example.test/MIT or MIT", false},
		"an address that is known":                       {nil, []string{"Apache-2.0"}, "https://www.apache.org/licenses/LICENSE-2.0.txt", true},
		"operators without operands are no way out":      {[]string{"GPL-3.0-only"}, []string{"MIT"}, "OR OR AND", false},
		"nothing after WITH is no exception and no name": {nil, []string{"MIT"}, "MIT WITH", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := licenses{licenseEntries(tt.deny), licenseEntries(tt.allow), map[string]bool{}}
			if got := r.passesStatement(tt.statement); got != tt.want {
				t.Errorf("passes %t, want %t", got, tt.want)
			}
		})
	}
}

// FuzzLicences holds any statement against two laws: what is denied entirely passes no list, and what is denied in part passes no
// shorter list of what is allowed.
func FuzzLicences(f *testing.F) {
	for _, s := range []string{"MIT OR (GPL-2.0-or-later WITH x AND BSD)", "((", "GPLv2+ or later", "a/b", "with with", "", "GPL-99+"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		everything := licenses{licenseEntries([]string{"*"}), nil, map[string]bool{}}
		if everything.passesStatement(s) {
			t.Errorf("%q passes where everything is denied", s)
		}
		anything := licenses{nil, licenseEntries([]string{"*"}), map[string]bool{}}
		if !anything.passesStatement(s) {
			t.Errorf("%q is not allowed where everything is", s)
		}
		short := licenses{licenseEntries([]string{"GPL-2.0-or-later"}), licenseEntries([]string{"MIT"}), map[string]bool{}}
		long := licenses{nil, licenseEntries([]string{"MIT", "BSD"}), map[string]bool{}}
		if short.passesStatement(s) && !long.passesStatement(s) {
			t.Errorf("%q passes with less allowed and more denied", s)
		}
	})
}
