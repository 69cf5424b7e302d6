package scan

import (
	"archive/zip"
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	cpb "github.com/google/osv-scalibr/binary/proto/config_go_proto"
	"github.com/google/osv-scalibr/extractor/filesystem"
	"github.com/google/osv-scalibr/extractor/filesystem/language/java/archive"
	scalibrlog "github.com/google/osv-scalibr/log"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// storedZip packs files as they are, as Spring Boot packs the archives an application needs.
func storedZip(t testing.TB, namesAndContents ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for pair := range slices.Chunk(namesAndContents, 2) {
		f, err := w.CreateHeader(&zip.FileHeader{Name: pair[0], Method: zip.Store})
		if err == nil {
			_, err = f.Write([]byte(pair[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// manifestOf returns a manifest with further lines.
func manifestOf(lines ...string) string {
	return "Manifest-Version: 1.0\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// javaCase is an archive, and the packages it is.
type javaCase struct {
	name, file, archive string
	want                []gate.Package
}

func maven(name, version string, roots ...string) gate.Package {
	return gate.Package{Type: "maven", Name: name, Version: version, Roots: roots}
}

func javaCases(t testing.TB) []javaCase {
	t.Helper()
	const class = "\xca\xfe\xba\xbe"
	aName, a := pomProperties("org.example", "a", "1.0")
	bName, b := pomProperties("org.example", "b", "2.0")
	return []javaCase{
		{"by what maven left", "whatever.jar", zipped(t, aName, a), []gate.Package{maven("org.example:a", "1.0")}},
		{"by what maven left of all that is packed into it", "all.war", zipped(t, aName, a, bName, b), []gate.Package{maven("org.example:a", "1.0"), maven("org.example:b", "2.0")}},
		{"by what maven left, lines ended for Windows", "a.jar", zipped(t, aName, strings.ReplaceAll(a, "\n", "\r\n")), []gate.Package{maven("org.example:a", "1.0")}},
		{"a template nobody filled in", "x-1.jar", zipped(t, aName, "groupId=org.example\nartifactId=\nversion=1.0\n"), []gate.Package{maven("x:x", "1")}},
		{"in an archive", "app.ear", zipped(t, "lib/a.jar", zipped(t, aName, a)), []gate.Package{maven("org.example:a", "1.0")}},
		{"in an archive, stored", "app.jar", storedZip(t, "BOOT-INF/lib/a.jar", zipped(t, aName, a), bName, b), []gate.Package{maven("org.example:a", "1.0"), maven("org.example:b", "2.0")}},
		{"by its name", "junit-4.12.jar", zipped(t, "junit/framework/Test.class", class, "org/junit/Test.class", class), []gate.Package{maven("junit:junit", "4.12", "junit.framework", "org.junit")}},
		{"by its name, which has a group", "org.apache.felix.framework-1.2.3.jar", zipped(t, "a", ""), []gate.Package{maven("org.apache.felix:org.apache.felix.framework", "1.2.3")}},
		{
			"by its name and its manifest", "spring-beans-5.3.17.jar",
			zipped(t, "META-INF/MANIFEST.MF", manifestOf("Implementation-Title: spring-beans", "Implementation-Version: 5.3.17", "Automatic-Module-Name: spring.beans"),
				"org/springframework/beans/factory/A.class", class, "org/springframework/beans/B.class", class),
			[]gate.Package{maven("spring-beans:spring-beans", "5.3.17", "org.springframework.beans", "spring.beans")},
		},
		{
			"by a manifest that tells all", "plugin.jar",
			zipped(t, "META-INF/MANIFEST.MF", manifestOf("Bundle-SymbolicName: org.example.plug", " in;singleton:=true", "bundle-version: 1.4 of April", "Bundle-Name: plugin")),
			[]gate.Package{maven("org.example.plugin:plugin", "1.4", "org.example.plugin")},
		},
		{
			"by a manifest that tells its version, and its name", "log4j-core.jar",
			zipped(t, "META-INF/MANIFEST.MF", manifestOf("Implementation-Version: 2.14.1"), "org/apache/logging/log4j/core/A.class", class),
			[]gate.Package{maven("log4j-core:log4j-core", "2.14.1", "org.apache.logging")},
		},
		{
			"of classes that lie deeper", "app-1.0.war", zipped(t, "WEB-INF/classes/com/acme/web/A.class", class, "META-INF/versions/9/x/y/z/A.class", class, "Main.class", class),
			[]gate.Package{maven("app:app", "1.0", "com.acme.web")},
		},
		{"by nothing", "app.jar", zipped(t, "com/acme/A.class", class), nil},
		{"empty", "a.jar", zipped(t), nil},
	}
}

func TestJavaArchives(t *testing.T) {
	for _, tt := range javaCases(t) {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, regular("opt/"+tt.file, tt.archive))
			want := []gate.FileInventory{{Path: "opt/" + tt.file, Packages: tt.want}}
			if diff := cmp.Diff(want, got.Files); diff != "" || len(got.Gaps) > 0 {
				t.Errorf("gaps %v, files (-want +got):\n%s", got.Gaps, diff)
			}
			if err := checkInventory(got); err != nil {
				t.Errorf("what a worker says of it is not believed: %v", err)
			}
		})
	}
}

// TestJavaAsScalibrReadsIt holds what is read against an independent reader: all it finds is found, and more only where it finds
// nothing. Besides the archives above it reads those that this machine has.
func TestJavaAsScalibrReadsIt(t *testing.T) {
	scalibrlog.SetLogger(silence{})
	no := false
	library, err := archive.New(&cpb.PluginConfig{MaxFileSizeBytes: math.MaxInt64, PluginSpecific: []*cpb.PluginSpecificConfig{
		{Config: &cpb.PluginSpecificConfig_JavaArchive{JavaArchive: &cpb.JavaArchiveConfig{MaxOpenedBytes: maxArchiveBytes, MaxZipDepth: maxArchiveDepth, MinZipBytes: 1, HashJars: &no}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	cases := javaCases(t)
	installed, _ := filepath.Glob("/usr/share/java/*.jar") // the pattern is well formed
	for _, name := range installed {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, javaCase{name: name, file: filepath.Base(name), archive: string(data)})
	}
	t.Logf("%d archives, %d of them from this machine", len(cases), len(installed))
	names := func(packages []gate.Package) []string {
		var names []string
		for _, p := range packages {
			names = append(names, p.Name+"@"+p.Version)
		}
		slices.Sort(names)
		return names
	}
	for _, tt := range cases {
		header := regular(tt.file, tt.archive).header
		f := file{path: tt.file, info: header.FileInfo(), data: []byte(tt.archive)}
		got, err := readJava(t.Context(), f)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		inv, err := library.Extract(t.Context(), &filesystem.ScanInput{FS: noFiles{}, Path: f.path, Info: f.info, Reader: bytes.NewReader(f.data)})
		want, err := convert(inv.Packages, err)
		if err != nil {
			t.Errorf("%s: the library says %v", tt.name, err)
		}
		if diff := cmp.Diff(names(want), names(got)); diff != "" && len(want) > 0 {
			t.Errorf("%s (-library +got):\n%s", tt.name, diff)
		}
	}
}

func TestUnreadableJavaArchives(t *testing.T) {
	aName, a := pomProperties("org.example", "a", "1.0")
	good := zipped(t, aName, a)
	deep := good
	for range maxArchiveDepth {
		deep = zipped(t, "in.jar", deep)
	}
	for _, tt := range []struct {
		name, archive string
		packages      int
		want          []gate.GapKind
	}{
		{"no archive", "PK", 0, []gate.GapKind{gate.GapUnreadablePackage}},
		{"something else in an archive", zipped(t, "b.jar", "text", aName, a), 1, []gate.GapKind{gate.GapUnreadablePackage}},
		{"one too deep", deep, 0, []gate.GapKind{gate.GapLimit}},
		{"a manifest without form", zipped(t, "META-INF/MANIFEST.MF", "Manifest-Version 1.0\n", aName, a), 1, []gate.GapKind{gate.GapUnreadablePackage}},
		{"a manifest that is too long", zipped(t, "META-INF/MANIFEST.MF", strings.Repeat("A: b\n", maxPomBytes/5+1), aName, a), 1, []gate.GapKind{gate.GapLimit}},
		{"properties that are too long", zipped(t, aName, a+strings.Repeat("#\n", maxPomBytes/2)), 0, []gate.GapKind{gate.GapLimit}},
		{"cut short", good[:len(good)-30], 0, []gate.GapKind{gate.GapUnreadablePackage}},
		{"one whose bytes are not those that were packed", corrupted(t, aName, a), 0, []gate.GapKind{gate.GapUnreadablePackage}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, regular("a.jar", tt.archive))
			if diff := cmp.Diff(tt.want, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s\n%v", diff, got.Gaps)
			}
			if n := len(got.Files[0].Packages); n != tt.packages {
				t.Errorf("%d packages, want %d: %v", n, tt.packages, got.Files[0].Packages)
			}
		})
	}
}

// corrupted returns an archive of one stored file in which a byte is another one.
func corrupted(t testing.TB, name, content string) string {
	t.Helper()
	return strings.Replace(storedZip(t, name, content), "version=1.0", "version=9.0", 1)
}

func TestAdvisoriesOfArchivesThatDoNotStateTheirGroup(t *testing.T) {
	rows := []ocitest.Advisory{
		{Bucket: mvnRows, Package: "org.springframework:spring-beans", ID: "CVE-2022-22965", Source: "ghsa", Vulnerable: []string{">=5.3.0, <5.3.18"}, Patched: []string{"5.3.18"}},
		{Bucket: mvnRows, Package: "com.example.other:spring-beans", ID: "CVE-1", Source: "ghsa", Vulnerable: []string{"<99"}},
		{Bucket: mvnRows, Package: "mysql:mysql-connector-java", ID: "CVE-2", Source: "ghsa", Vulnerable: []string{"<99"}},
		{Bucket: mvnRows, Package: "commons-io:commons-io", ID: "CVE-3", Source: "ghsa", Vulnerable: []string{"<99"}},
	}
	a := openTestAdvisories(t, rows, map[string]string{"ours.json": osvAbout("Maven", "com.acme.internal:Billing", `"versions":["2.0"]`)})
	for _, tt := range []struct {
		name, artifact, version string
		roots, want             []string
	}{
		{"of the same owner", "spring-beans:spring-beans", "5.3.17", []string{"org.springframework.beans"}, []string{"CVE-2022-22965 unrated maven/spring-beans:spring-beans@5.3.17 fixed 5.3.18"}},
		{"fixed", "spring-beans:spring-beans", "5.3.18", []string{"org.springframework.beans"}, nil},
		{"of nobody known", "spring-beans:spring-beans", "5.3.17", []string{"net.elsewhere"}, nil},
		{"stated", "net.elsewhere:spring-beans", "5.3.17", nil, nil},
		{"an old group, named after the classes", "com.mysql:mysql-connector-java", "8.0", []string{"com.mysql.cj"}, []string{"CVE-2 unrated maven/com.mysql:mysql-connector-java@8.0 fixed 99"}},
		{"an old group, named after the artifact", "org.apache.commons.io:commons-io", "2.0", []string{"org.apache.commons"}, []string{"CVE-3 unrated maven/org.apache.commons.io:commons-io@2.0 fixed 99"}},
		{"a record of one's own", "billing:billing", "2.0", []string{"com.acme.billing"}, []string{"X-1 unrated maven/billing:billing@2.0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inv := inventory(gate.OS{}, "maven/"+tt.artifact+"@"+tt.version)
			inv.Packages[0].Roots = tt.roots
			if diff := cmp.Diff(tt.want, brief(matchAll(t, a, inv))); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRootsAreFew(t *testing.T) {
	var files []string
	for i := range 3 * maxRoots {
		files = append(files, strings.Repeat(string(rune('a'+i%26)), 1+i)+"/x/A.class", "")
	}
	files = append(files, strings.Repeat("x", maxRootBytes+1)+"/y/A.class", "", "META-INF/MANIFEST.MF", manifestOf("Main-Class: "+strings.Repeat("y", maxRootBytes+1)))
	inv := readTar(t, regular("a-1.jar", zipped(t, files...)))
	if n := len(inv.Files[0].Packages[0].Roots); n != maxRoots {
		t.Errorf("%d roots, want %d", n, maxRoots)
	}
	for _, odd := range [][]string{make([]string, maxRoots+1), {strings.Repeat("x", maxRootBytes+1)}} {
		inv.Files[0].Packages[0].Roots = odd
		if err := checkInventory(inv); err == nil {
			t.Errorf("%d roots were believed", len(odd))
		}
	}
}
