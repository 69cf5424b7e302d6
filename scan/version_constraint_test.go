package scan

import (
	"errors"
	"strings"
	"testing"
)

func TestVersionSets(t *testing.T) {
	for _, test := range []struct {
		order   versionOrder
		set     string
		in, out string
	}{
		{orderNPM, "<1.2.3", "0.0.1 1.2.2 1.2.3-rc.1", "1.2.3 1.2.4 2.0.0"},
		{orderNPM, "<=1.2.3", "1.2.3 1.0.0", "1.2.4"},
		{orderNPM, ">1.2.3", "1.2.4", "1.2.3 1.2.3-rc.1"},
		{orderNPM, ">= 1.0.0, < 1.2.3", "1.0.0 1.2.2", "0.9.9 1.2.3"},
		{orderNPM, ">=1.0.0 <1.2.3", "1.0.0 1.2.2", "0.9.9 1.2.3"},
		{orderNPM, ">=1.0.0<1.2.3", "1.0.0 1.2.2", "0.9.9 1.2.3"},
		{orderNPM, "=>1.0.0 =<1.2.3", "1.0.0 1.2.3", "0.9.9 1.2.4"},
		{orderNPM, "<1.0.0 || >=2.0.0, <2.1.0", "0.9.0 2.0.5", "1.0.0 2.1.0"},
		{orderNPM, "1.2.3", "1.2.3 v1.2.3 1.2.3+build", "1.2.4 1.2.3-rc"},
		{orderNPM, "=1.2.3", "1.2.3", "1.2.2"},
		{orderNPM, "==1.2", "1.2.0", "1.2.1"},
		{orderNPM, "!=1.2.3", "1.2.4 1.2.2", "1.2.3"},
		{orderNPM, "^1.2.3", "1.2.3 1.9.0", "1.2.2 2.0.0 2.0.0-rc.1"},
		{orderNPM, "^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0"},
		{orderNPM, "^0.0.3", "0.0.3", "0.0.4 0.0.2"},
		{orderNPM, "^0", "0.0.0 0.9.0", "1.0.0"},
		{orderNPM, "^1.x", "1.0.0 1.9.0", "2.0.0 0.9.0"},
		{orderNPM, "~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"},
		{orderNPM, "~1.2", "1.2.0 1.2.9", "1.3.0"},
		{orderNPM, "~1", "1.0.0 1.9.0", "2.0.0"},
		{orderNPM, "*", "0.0.1 9.9.9-rc", ""},
		{orderNPM, "x", "0.0.1", ""},
		{orderNPM, ">=*", "0.0.1", ""},
		{orderNPM, "1.x", "1.0.0 1.9.9", "2.0.0 0.9.0"},
		{orderNPM, "1.2.*", "1.2.0 1.2.9", "1.3.0 1.1.0"},
		{orderNPM, "1.*.*", "1.2.0", "2.0.0"},
		{orderNPM, "!=1.2.*", "1.3.0", "1.2.5"},
		{orderNPM, ">1.2.x", "1.3.0 2.0.0", "1.2.9 1.2.0 1.1.0"},
		{orderNPM, "<=1.2.x", "1.2.9 1.2.0 0.1.0", "1.3.0"},
		{orderNPM, "<1.2.x", "1.1.9", "1.2.0 1.2.9"},
		{orderNPM, ">=1.2.x", "1.2.0 2.0.0", "1.1.9"},
		{orderNPM, "1.2.0 - 1.4.0", "1.2.0 1.3.0 1.4.0", "1.4.1 1.1.0"},
		{orderGem, "~> 1.2.3", "1.2.3 1.2.10", "1.2.2 1.3.0 1.3.0.rc1"},
		{orderGem, "~> 1.2", "1.2 1.9", "2.0 1.1"},
		{orderGem, "~> 1", "1.0 1.9", "2.0"},
		{orderGem, "~> 2.0.9, >= 2.0.9.2", "2.0.9.2 2.0.10", "2.0.9.1 2.1.0"},
		{orderGem, "~> 1.2.3.rc1", "1.2.3.rc1 1.2.4", "1.3.0 1.2.2"},
		{orderPyPI, "~=1.4.2", "1.4.2 1.4.9", "1.5.0 1.4.1"},
		{orderPyPI, "===1.0", "1.0", "1.1"},
		{orderPyPI, "==1.0.*", "1.0.5 1.0", "1.1"},
		{orderPyPI, "<=1.0", "1.0+local 1.0", "1.0.1"},
		{orderPyPI, ">1.0", "1.0.1 1.1.post1 1!1.0.post1", "1.0 1.0.post1 1.0.0-1 1.0.r2.dev3 1.0.post1+local"},
		{orderPyPI, ">1.0.post1", "1.0.post2 1.0.1", "1.0.post1 1.0"},
		{orderPyPI, ">1.0rc1", "1.0 1.0rc2 1.0.post1", "1.0rc1 1.0rc1.post1"},
		{orderPackagist, "~1.2", "1.2.0 1.9.0", "2.0.0 1.1.0"},
		{orderPackagist, "~1.2.3", "1.2.3 1.2.9", "1.3.0"},
		{orderPackagist, ">=5.0.0,<5.1.5", "v5.1.4", "5.1.5"},
		{orderMaven, ">=2.0-beta9, <2.3.1", "2.0-beta9 2.3.0 2.0-rc1", "2.0-beta8 2.3.1"},
		{orderMaven, "<2.9.10.8", "2.9.10.7", "2.9.10.8"},
		{orderNuGet, ">=1.0.0.1", "1.0.0.1", "1.0.0"},
		{orderGo, ">=1.22.0-0, <1.22.2", "1.22.0 1.22.0-rc.1 1.22.1", "1.22.2 1.21.9"},
		{orderCargo, "^0.1.2", "0.1.5", "0.2.0"},
	} {
		set, err := parseVersionSet(test.order, test.set)
		if err != nil {
			t.Errorf("%s: %v", test.order, err)
			continue
		}
		for want, versions := range map[bool]string{true: test.in, false: test.out} {
			for version := range strings.FieldsSeq(versions) {
				v, err := parseVersion(test.order, version)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := set.contains(v); err != nil || got != want {
					t.Errorf("%s: %s in %q is %t, %v, want %t", test.order, version, test.set, got, err, want)
				}
			}
		}
	}
}

func TestVersionSetsRefuse(t *testing.T) {
	for _, text := range []string{
		"", " ", "||", ">=1.0.0 ||", "|| <1.0.0", ">=", "<> 1.0.0", ">>1.0.0", "><1", "[1.0,2.0)", "(,1.0]", "latest", ">=1.0.0 main", "^x.1.2-",
		"<1.0.0\x00", "=!1.0.0", "1.0.0 -", strings.Repeat("9", maxVersionBytes+1),
	} {
		if set, err := parseVersionSet(orderNPM, text); !errors.Is(err, errUnknownVersion) {
			t.Errorf("%q is the set %v, %v", text, set, err)
		}
	}
	if _, err := parseVersionSet(orderPyPI, "~=1!2.0"); !errors.Is(err, errUnknownVersion) {
		t.Error("a line of releases with an epoch is one")
	}
}

func TestZeroBoundFitsNothing(t *testing.T) {
	v, err := parseVersion(orderNPM, "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if in, err := (versionBound{}).fits(v); in || err == nil {
		t.Errorf("got %t, %v", in, err)
	}
	if in, err := (versionBound{version: "1.0.0"}).fits(v); in || err == nil {
		t.Errorf("got %t, %v", in, err)
	}
	if in, err := (versionSet)(nil).contains(v); in || err != nil {
		t.Errorf("the empty set: %t, %v", in, err)
	}
}

func TestBoundsThatSettleItOutweighThoseNobodyCanCompare(t *testing.T) {
	v, err := parseVersion(orderNPM, "2.0.0")
	if err != nil {
		t.Fatal(err)
	}
	odd := versionBound{op: boundFrom, version: "odd"}
	below, above := versionBound{op: boundBelow, version: "1.0.0"}, versionBound{op: boundAbove, version: "1.0.0"}
	for _, test := range []struct {
		set  versionSet
		want bool
		err  error
	}{
		{versionSet{{odd, below}}, false, nil},
		{versionSet{{odd, above}}, false, errUnknownVersion},
		{versionSet{{odd}, {above}}, true, nil},
		{versionSet{{odd}, {below}}, false, errUnknownVersion},
	} {
		if got, err := test.set.contains(v); got != test.want || !errors.Is(err, test.err) {
			t.Errorf("%v: %t, %v, want %t, %v", test.set, got, err, test.want, test.err)
		}
	}
}

func FuzzVersionSet(f *testing.F) {
	for _, seed := range []string{">=1.0.0, <1.2.3 || ^2.x", "~> 1.2.3.rc1", "1.2 - 1.4", "!=1.2.*", "~=1!2.0", "*", "[1,2)", "=<v1"} {
		f.Add(uint8(3), seed, "1.2.3")
	}
	orders := []versionOrder{orderDeb, orderAPK, orderRPM, orderNPM, orderPyPI, orderGo, orderMaven, orderGem, orderCargo, orderNuGet, orderPackagist}
	f.Fuzz(func(t *testing.T, n uint8, text, version string) {
		order := orders[int(n)%len(orders)]
		v, err := parseVersion(order, version)
		if err != nil {
			return
		}
		if c, err := v.compare(v.text); err != nil || c != 0 {
			t.Errorf("%s: %q against itself is %d, %v", order, v.text, c, err)
		}
		set, err := parseVersionSet(order, text)
		if err != nil {
			return
		}
		if in, err := set.contains(v); in && err != nil {
			t.Errorf("%s: in %q and an error: %v", version, text, err)
		}
	})
}
