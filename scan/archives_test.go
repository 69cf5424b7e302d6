package scan

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

// builtJar returns a jar as Maven builds it: a manifest first, then classes and what Maven says of itself.
func builtJar(t testing.TB, group, name, version string) string {
	t.Helper()
	pomName, pom := pomProperties(group, name, version)
	return zipped(t,
		"META-INF/", "", "META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nCreated-By: Maven JAR Plugin 3.3.0\r\nBuild-Jdk-Spec: 17\r\n\r\n",
		strings.ReplaceAll(group, ".", "/")+"/Main.class", "\xca\xfe\xba\xbe\x00\x00\x00\x3d", pomName, pom)
}

// TestArchives has archives as they are deployed, with what lies in them.
func TestArchives(t *testing.T) {
	log4j := gate.Package{Type: "maven", Name: "org.apache.logging.log4j:log4j-core", Version: "2.14.1"}
	spring := gate.Package{Type: "maven", Name: "org.springframework:spring-web", Version: "5.3.17"}
	text := gate.Package{Type: "maven", Name: "org.apache.commons:commons-text", Version: "1.9"}
	log4jJar := builtJar(t, "org.apache.logging.log4j", "log4j-core", "2.14.1")
	springJar := builtJar(t, "org.springframework", "spring-web", "5.3.17")
	const manifest = "Manifest-Version: 1.0\r\nCreated-By: 17.0.9 (Eclipse Adoptium)\r\n\r\n"
	war := zipped(t,
		"META-INF/MANIFEST.MF", manifest, "index.jsp", "<%= 1 %>", "WEB-INF/web.xml", "<web-app/>", "WEB-INF/classes/shop/Cart.class", "\xca\xfe\xba\xbe",
		"WEB-INF/lib/log4j-core-2.14.1.jar", log4jJar, "WEB-INF/lib/spring-web-5.3.17.jar", springJar)
	ear := zipped(t,
		"META-INF/MANIFEST.MF", manifest, "META-INF/application.xml", "<application/>",
		"lib/commons-text-1.9.jar", builtJar(t, "org.apache.commons", "commons-text", "1.9"), "shop.war", war)
	for _, tt := range []struct {
		name  string
		entry entry
		want  []gate.Package
	}{
		{"a war has the jars in it", regular("usr/local/tomcat/webapps/shop.war", war), []gate.Package{log4j, spring}},
		{"an ear has its own and those of the war in it", regular("opt/jboss/wildfly/standalone/deployments/shop.ear", ear), []gate.Package{text, log4j, spring}},
		{
			"a zipped egg has what EGG-INFO says", regular("usr/local/lib/python3.8/site-packages/Jinja2-2.11.2-py3.8.egg", zipped(t,
				"EGG-INFO/PKG-INFO", wheelMetadata, "EGG-INFO/SOURCES.txt", "setup.py\n", "EGG-INFO/zip-safe", "\n", "jinja2/__init__.py", "__version__ = '2.11.2'\n")),
			[]gate.Package{{Type: "pypi", Name: "Jinja2", Version: "2.11.2"}},
		},
		{
			"an unpacked egg too", regular("usr/local/lib/python3.8/site-packages/Jinja2-2.11.2-py3.8.egg/EGG-INFO/PKG-INFO", wheelMetadata),
			[]gate.Package{{Type: "pypi", Name: "Jinja2", Version: "2.11.2", Licenses: []string{"BSD-3-Clause"}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entry)
			if len(got.Files) != 1 || len(got.Gaps) > 0 {
				t.Fatalf("files %v, gaps %v", got.Files, got.Gaps)
			}
			packages := got.Files[0].Packages // by name: in which order they are found is not said
			slices.SortFunc(packages, func(a, b gate.Package) int { return cmp.Compare(a.Name, b.Name) })
			if diff := gocmp.Diff(tt.want, packages); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
		})
	}
}
