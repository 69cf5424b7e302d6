package scan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
)

const rackSpecification = `# -*- encoding: utf-8 -*-
# stub: rack 2.2.6 ruby lib

Gem::Specification.new do |s|
  s.name = "rack".freeze
  s.version = "2.2.6"

  s.required_rubygems_version = Gem::Requirement.new(">= 0".freeze) if s.respond_to? :required_rubygems_version=
  s.authors = ["Leah Neukirchen".freeze]
  s.licenses = ["MIT".freeze, "Ruby".freeze]
end
`

const depsOfAnApplication = `{
  "runtimeTarget": {"name": ".NETCoreApp,Version=v8.0/linux-x64"},
  "targets": {".NETCoreApp,Version=v8.0/linux-x64": {}},
  "libraries": {
    "Tide.App/1.0.0": {"type": "project", "serviceable": false, "sha512": ""},
    "Newtonsoft.Json/12.0.3": {"type": "package", "serviceable": true, "sha512": "sha512-x"},
    "runtimepack.Microsoft.NETCore.App.Runtime.linux-x64/8.0.1": {"type": "runtimepack", "serviceable": false, "sha512": ""}
  }
}`

const composerPackages = `[
  {"name": "monolog/monolog", "version": "2.8.0", "license": ["MIT"]},
  {"name": "symfony/http-kernel", "version": "v5.4.19", "license": ["MIT"]}
]`

var composerFound = []gate.Package{
	{Type: "composer", Name: "monolog/monolog", Version: "2.8.0", Licenses: []string{"MIT"}},
	{Type: "composer", Name: "symfony/http-kernel", Version: "v5.4.19", Licenses: []string{"MIT"}},
}

func TestPackagesOfManifests(t *testing.T) {
	newtonsoft := gate.Package{Type: "nuget", Name: "Newtonsoft.Json", Version: "12.0.3"}
	for _, tt := range []struct {
		name  string
		entry entry
		want  []gate.Package
	}{
		{
			"gem", regular("usr/local/bundle/specifications/rack-2.2.6.gemspec", rackSpecification),
			[]gate.Package{{Type: "gem", Name: "rack", Version: "2.2.6", Licenses: []string{"MIT", "Ruby"}}},
		},
		{
			"gem that ruby ships", regular("usr/local/lib/ruby/gems/3.3.0/specifications/default/json-2.7.1.gemspec", "Gem::Specification.new do |s|\n  s.name = \"json\".freeze\n  s.version = \"2.7.1\".freeze\n"),
			[]gate.Package{{Type: "gem", Name: "json", Version: "2.7.1"}},
		},
		{
			"gem of a specification by hand, by its file's name", regular("specifications/tide-gem-1.2.0-x86_64-linux.gemspec", "Gem::Specification.new do |s|\n s.version = Tide::VERSION\nend\n"),
			[]gate.Package{{Type: "gem", Name: "tide-gem", Version: "1.2.0"}},
		},
		{"nuget", regular("app/Tide.App.deps.json", depsOfAnApplication), []gate.Package{
			{Type: "nuget", Name: "Microsoft.NETCore.App.Runtime.linux-x64", Version: "8.0.1"}, newtonsoft,
		}},
		{
			"nuget reads keys as .NET does",
			regular("a.deps.json", `{"targets":{},"libraries":{"Newtonsoft.Json/12.0.3":{"type":"package","Type":"project"}},"Libraries":{}}`),
			[]gate.Package{newtonsoft},
		},
		{"another tool's deps.json", regular("wp/editor.deps.json", `{"dependencies":["wp-blocks"]}`), nil},
		{"composer.lock", regular("app/composer.lock", `{"packages":`+composerPackages+`,"packages-dev":[{"name":"phpunit/phpunit","version":"9.0"}]}`), composerFound},
		{"composer's installed.json", regular("app/vendor/composer/installed.json", `{"packages":`+composerPackages+`,"dev":false}`), composerFound},
		{"installed.json of composer 1", regular("app/vendor/composer/installed.json", composerPackages), composerFound},
		{"composer.lock of a project without dependencies", regular("composer.lock", `{"packages":[]}`), nil},
		{
			"conan 2", regular("app/conan.lock", `{"version":"0.5","requires":["zlib/1.2.13#e377bee636333ae348d51ca90874e353%1667396813.987","openssl/3.0.5@tide/stable"],"build_requires":["cmake/3.2"]}`),
			[]gate.Package{{Type: "conan", Name: "openssl", Version: "3.0.5"}, {Type: "conan", Name: "zlib", Version: "1.2.13"}},
		},
		{
			"conan 1", regular("app/conan.lock", `{"graph_lock":{"nodes":{"0":{"ref":"app/1.0"},"1":{"ref":"zlib/1.2.11#x"},"2":{"path":"conanfile.py"}}},"version":"0.4"}`),
			[]gate.Package{{Type: "conan", Name: "app", Version: "1.0"}, {Type: "conan", Name: "zlib", Version: "1.2.11"}},
		},
		{
			"conan 1 with two profiles, without what runs to build",
			regular("app/conan.lock", `{"graph_lock":{"nodes":{"0":{"ref":"app/1.0","requires":["1"],"build_requires":["2"],"context":"host"},
				"1":{"ref":"zlib/1.2.11#x","context":"host"},"2":{"ref":"cmake/3.2","requires":["3"],"context":"build"},"3":{"ref":"openssl/1.1.1","context":"build"}}},"version":"0.4"}`),
			[]gate.Package{{Type: "conan", Name: "app", Version: "1.0"}, {Type: "conan", Name: "zlib", Version: "1.2.11"}},
		},
		{
			"npm with a license", regular("node_modules/a/package.json", `{"name":"a","version":"1.0.0","license":"(MIT OR Apache-2.0)"}`),
			[]gate.Package{{Type: "npm", Name: "a", Version: "1.0.0", Licenses: []string{"(MIT OR Apache-2.0)"}}},
		},
		{
			"npm with licenses as once was usual", regular("node_modules/a/package.json", `{"name":"a","version":"1.0.0","license":{"type":"BSD"},"licenses":[{"type":"MIT"},"ISC",7]}`),
			[]gate.Package{{Type: "npm", Name: "a", Version: "1.0.0", Licenses: []string{"BSD", "MIT", "ISC"}}},
		},
		{
			"python with an expression", regular("a.dist-info/METADATA", "Metadata-Version: 2.4\nName: a\nVersion: 1.0\nLicense: see below\nLicense-Expression: MIT\n\nLicense-Expression: GPL\n"),
			[]gate.Package{{Type: "pypi", Name: "a", Version: "1.0", Licenses: []string{"MIT"}}},
		},
		{
			"python with a whole license", regular("a.dist-info/METADATA", "Metadata-Version: 2.1\nName: a\nVersion: 1.0\nLicense: "+strings.Repeat("Permission is hereby granted ", 10)+"\n\n"),
			[]gate.Package{{Type: "pypi", Name: "a", Version: "1.0"}},
		},
		{"an extension of an editor", regular("opt/ext/package.json", `{"name":"ext","version":"1.0.0","engines":{"vscode":"^1.0"}}`), nil},
		{
			"what node loads is a package, whatever it says of editors", regular("node_modules/lodash/package.json", `{"name":"lodash","version":"4.17.4","contributes":{},"engines":{"vscode":"*"},"unity":"1"}`),
			lodashPackage,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, tt.entry)
			want := []gate.FileInventory{{Path: tt.entry.header.Name, Packages: tt.want}}
			if diff := cmp.Diff(want, got.Files); diff != "" || got.Gaps != nil {
				t.Errorf("files (-want +got):\n%s\ngaps: %v", diff, got.Gaps)
			}
		})
	}
}

func TestMalformedManifestsAreGaps(t *testing.T) {
	for _, tt := range []struct{ name, file, data string }{
		{"gem", "specifications/tide.gemspec", "Gem::Specification.new do |s|\nend\n"},
		{"nuget", "a.deps.json", "{"},
		{"nuget without a version", "a.deps.json", `{"targets":{},"libraries":{"Newtonsoft.Json":{"type":"package"}}}`},
		{"nuget with odd libraries", "a.deps.json", `{"targets":{},"libraries":[]}`},
		{"composer.lock", "composer.lock", `{"packages":{}}`},
		{"installed.json", "vendor/composer/installed.json", `[{"name":"a/b"}]`},
		{"conan", "conan.lock", "requires"},
		{"conan's graph", "conan.lock", `{"graph_lock":{"nodes":[]}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readTar(t, regular(tt.file, tt.data))
			if diff := cmp.Diff([]gate.GapKind{gate.GapUnreadablePackage}, gapKinds(got.Gaps)); diff != "" {
				t.Errorf("gaps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLargeManifests(t *testing.T) {
	gem := readTar(t, regular("specifications/a-1.gemspec", rackSpecification+strings.Repeat("#\n", maxGemspecBytes/2)))
	if diff := cmp.Diff([]gate.GapKind{gate.GapLimit}, gapKinds(gem.Gaps)); diff != "" {
		t.Errorf("gaps of a gemspec (-want +got):\n%s", diff)
	}
	wheel := readTar(t, regular("a.dist-info/METADATA", "Name: a\nVersion: 1\n"+strings.Repeat("Requires-Dist: tidewaiter\n", maxHeaderBytes/20)+"License: MIT\n"))
	if len(wheel.Gaps) > 0 || len(wheel.Files) != 1 || len(wheel.Files[0].Packages) != 1 || wheel.Files[0].Packages[0].Licenses != nil {
		t.Errorf("a wheel with a late license: %v, gaps %v", wheel.Files, wheel.Gaps)
	}
}

func TestGemspecsInGemsAreNotInstalledOnes(t *testing.T) {
	got := readTar(t, regular("usr/local/bundle/gems/rack-2.2.6/rack.gemspec", "Gem::Specification.new do |s|\n s.version = Rack::VERSION\nend\n"))
	if len(got.Files) > 0 || len(got.Gaps) > 0 {
		t.Errorf("files %v, gaps %v, want none", got.Files, got.Gaps)
	}
}
