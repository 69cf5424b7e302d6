package scan

import (
	"archive/zip"
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

const dep5 = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: thing

Files: *
Copyright: 2001 Somebody
License: GPL-2+ or Artistic, and BSD-3-clause

Files: lib/*
 doc/*
Copyright: 2002 Somebody else
License: LGPL-2.1+
 This library is free software.

Files: debian/* debian/patches/*
Copyright: 2003 A maintainer
License: AGPL-3

License: Expat
 Permission is hereby granted, free of charge
`

func TestCopyrightFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"a structured file, by its stanzas about files": {dep5, []string{"GPL-2+ or Artistic", "BSD-3-clause", "LGPL-2.1+"}},
		"with carriage returns":                         {strings.ReplaceAll(dep5, "\n", "\r\n"), []string{"GPL-2+ or Artistic", "BSD-3-clause", "LGPL-2.1+"}},
		"the header's own":                              {"Format: http://www.debian.org/doc/packaging-manuals/copyright-format/1.0\nLicense: MIT\n", []string{"MIT"}},
		"a choice of groups":                            {"Format: http://www.debian.org/doc/packaging-manuals/copyright-format/1.0\nLicense: MIT and ISC, or GPL-2\n", []string{"(MIT and ISC) or (GPL-2)"}},
		"a text that refers to common ones": {
			"You may redistribute it under the GPL, either version 2 or (at your option) any later\nversion. See /usr/share/common-licenses/GPL-2.\n" +
				"Parts are under /usr/share/common-licenses/Apache-2.0, see also `/usr/share/common-licenses/GPL-2'.",
			[]string{"GPL-2+", "Apache-2.0"},
		},
		"a text that means one version": {"See /usr/share/common-licenses/GPL-2, and BSD in /usr/share/common-licenses/BSD", []string{"GPL-2", "BSD"}},
		"a text that names none":        {"Do what you like.\nLicense: MIT\n", nil},
		"nothing":                       {"", nil},
		"a licence that is a text":      {"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nLicense: " + strings.Repeat("x", 500), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(readCopyright([]byte(tt.text)), tt.want); diff != "" {
				t.Errorf("got -, want +:\n%s", diff)
			}
		})
	}
}

func TestNuspecs(t *testing.T) {
	newtonsoft := gate.LicenseFile{Type: "nuget", Name: "newtonsoft.json", Version: "13.0.1", Licenses: []string{"MIT"}}
	spec := func(license string) string {
		return "\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<package xmlns=\"http://schemas.microsoft.com/packaging/2013/05/nuspec.xsd\"><metadata>" +
			"<id>Newtonsoft.Json</id><version>13.0.1</version>" + license + "</metadata></package>"
	}
	for name, tt := range map[string]struct {
		text string
		want gate.LicenseFile
	}{
		"an expression":       {spec(`<license type="expression">MIT</license><licenseUrl>https://licenses.nuget.org/ISC</licenseUrl>`), newtonsoft},
		"the gallery's":       {spec(`<licenseUrl>https://licenses.nuget.org/MIT</licenseUrl>`), newtonsoft},
		"a file":              {spec(`<license type="file">LICENSE.md</license>`), gate.LicenseFile{}},
		"some other address":  {spec(`<licenseUrl>https://example.test/MIT</licenseUrl>`), gate.LicenseFile{}},
		"nothing":             {spec(``), gate.LicenseFile{}},
		"not XML":             {"{}", gate.LicenseFile{}},
		"entities of its own": {`<!DOCTYPE p [<!ENTITY a "MIT">]><package><metadata><id>a</id><version>1</version><license type="expression">&a;</license></metadata></package>`, gate.LicenseFile{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := readNuspec([]byte(tt.text))
			if diff := cmp.Diff(got, tt.want); diff != "" || ok != (tt.want.Name != "") {
				t.Errorf("%t, got -, want +:\n%s", ok, diff)
			}
		})
	}
}

// jar packs files, by name.
func jar(t *testing.T, files ...string) string {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i := 0; i < len(files); i += 2 {
		f, err := w.Create(files[i])
		if err == nil {
			_, err = f.Write([]byte(files[i+1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func TestLicencesOfJars(t *testing.T) {
	properties := func(artifact string) []string {
		return []string{"META-INF/maven/g/" + artifact + "/pom.properties", "groupId=g\nartifactId=" + artifact + "\nversion=1.0\n"}
	}
	pom := func(artifact, licenses string) []string {
		return append(properties(artifact), "META-INF/maven/g/"+artifact+"/pom.xml", "<project><licenses>"+licenses+"</licenses></project>")
	}
	apache := "<license><name>Apache License, Version 2.0</name><url>https://www.apache.org/licenses/LICENSE-2.0</url></license>"
	manifest := []string{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nBundle-License: \"Eclipse Public License, Version 2.0\";link=\"https://a,b;c\r\n \", MIT\r\n"}
	bundle := []string{"Eclipse Public License, Version 2.0", "MIT"}
	for name, tt := range map[string]struct {
		jar  string
		want map[string][]string
	}{
		"by its pom":                  {jar(t, pom("a", apache)...), map[string][]string{"g:a": {"Apache License, Version 2.0"}}},
		"two to choose from":          {jar(t, pom("a", apache+"<license><url>https://opensource.org/licenses/MIT</url></license>")...), map[string][]string{"g:a": {"Apache License, Version 2.0", "https://opensource.org/licenses/MIT"}}},
		"by its manifest":             {jar(t, append(properties("a"), manifest...)...), map[string][]string{"g:a": bundle}},
		"its pom before its manifest": {jar(t, append(pom("a", apache), manifest...)...), map[string][]string{"g:a": {"Apache License, Version 2.0"}}},
		"of what is packed into it":   {jar(t, append(pom("a", apache), pom("b", "<license><name>MIT</name></license>")...)...), map[string][]string{"g:a": {"Apache License, Version 2.0"}, "g:b": {"MIT"}}},
		"of jars in it":               {jar(t, append(pom("a", ""), "BOOT-INF/lib/b.jar", jar(t, append(properties("b"), manifest...)...))...), map[string][]string{"g:a": nil, "g:b": bundle}},
		"a pom that is no XML":        {jar(t, append(properties("a"), "META-INF/maven/g/a/pom.xml", "<project")...), map[string][]string{"g:a": nil}},
	} {
		t.Run(name, func(t *testing.T) {
			inv := takeInventory(t.Context(), bytes.NewReader(tarball(t, regular("app/a.jar", tt.jar))), order{encoding: encodingPlain}, t.TempDir())
			got := map[string][]string{}
			for _, f := range inv.Files {
				for _, p := range f.Packages {
					got[p.Name] = p.Licenses
				}
			}
			if diff := cmp.Diff(got, tt.want); diff != "" || len(inv.Gaps) > 0 {
				t.Errorf("gaps %v, got -, want +:\n%s", inv.Gaps, diff)
			}
		})
	}
}

func TestLicenceFilesOfALayer(t *testing.T) {
	layer := tarball(t,
		regular("usr/share/doc/bash/copyright", "/usr/share/common-licenses/GPL-3"),
		regular("usr/share/doc/sub/dir/copyright", "/usr/share/common-licenses/GPL-3"),
		regular("usr/share/doc/empty/copyright", "nothing"),
		regular("usr/share/doc/big/copyright", strings.Repeat("x", maxLicenseFileBytes)+"/usr/share/common-licenses/GPL-3"),
		symlink("usr/share/doc/libgcc-s1", "gcc-12-base"),
		symlink("usr/share/doc/astray", "../../../etc/passwd"),
		symlink("usr/share/doc/both/copyright", "../bash/copyright"),
		regular("usr/share/doc/gone/copyright", "/usr/share/common-licenses/GPL-3"), symlink("usr/share/doc/gone/copyright", "/dev/null"),
	)
	inv := takeInventory(t.Context(), bytes.NewReader(layer), order{encoding: encodingPlain}, t.TempDir())
	want := map[string]gate.LicenseFile{
		"usr/share/doc/bash/copyright": {Type: "deb", Name: "bash", Licenses: []string{"GPL-3"}},
		"usr/share/doc/libgcc-s1":      {Type: "deb", Name: "libgcc-s1", Like: "gcc-12-base"},
		"usr/share/doc/both/copyright": {Type: "deb", Name: "both", Like: "bash"},
	}
	if diff := cmp.Diff(inv.LicenseFiles, want); diff != "" || len(inv.Gaps) > 0 {
		t.Errorf("gaps %v, got -, want +:\n%s", inv.Gaps, diff)
	}
	if err := checkInventory(inv); err != nil {
		t.Errorf("what a worker says of them is not believed: %v", err)
	}
	for _, odd := range []gate.LicenseFile{
		{Type: "joke", Name: "x"}, {Type: "deb"}, {Type: "deb", Name: "x", Licenses: make([]string, maxLicenses+1)},
		{Type: "deb", Name: "x", Licenses: []string{strings.Repeat("x", maxLicenseBytes+1)}},
	} {
		inv.LicenseFiles = map[string]gate.LicenseFile{"usr/share/doc/x/copyright": odd}
		if err := checkInventory(inv); err == nil {
			t.Errorf("%.80v was believed", odd)
		}
	}
}

// FuzzLicenceFiles holds whatever a file states against the bounds of what is believed of a worker.
func FuzzLicenceFiles(f *testing.F) {
	f.Add([]byte(dep5))
	f.Add([]byte("any later version /usr/share/common-licenses/GPL-2"))
	f.Add([]byte(`<package><metadata><id>a</id><version>1</version><license type="expression">MIT</license></metadata></package>`))
	f.Add([]byte("Bundle-License: \"a,b\";x=y, \"c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, p := range []string{"usr/share/doc/x/copyright", "a/x.nuspec"} {
			if l, ok := licenseReader(p)(data); ok {
				if err := checkLicense(p, l); err != nil {
					t.Errorf("%v: %+v", err, l)
				}
			}
		}
		m, _ := parseManifest(data) // it returns what it could read
		for _, name := range append(m.licenses, pomLicenses(data)...) {
			if len(name) > maxLicenseBytes {
				t.Errorf("a licence of %d bytes", len(name))
			}
		}
	})
}
