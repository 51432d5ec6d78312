#include "support/cpu_quota.h"

#include <gtest/gtest.h>

#include <fstream>

namespace flux {
namespace {

namespace fs = std::filesystem;

class CpuQuota : public ::testing::Test {
 protected:
  CpuQuota() {
    root_ = fs::path(::testing::TempDir()) /
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
  }
  ~CpuQuota() override { fs::remove_all(root_); }

  void write(const std::string& name, const std::string& text) const {
    const fs::path file = root_ / name;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  fs::path root_;
};

TEST_F(CpuQuota, ContainersSeeTheirGroupAsRoot) {
  write("proc/self/cgroup", "0::/\n");
  EXPECT_FALSE(cpu_quota(root_));
  write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_FALSE(cpu_quota(root_));
  write("sys/fs/cgroup/cpu.max", "250000 100000\n");
  EXPECT_EQ(cpu_quota(root_), 2.5);
}

TEST_F(CpuQuota, TheTightestOfTheGroupsAboveCounts) {
  write("proc/self/cgroup", "0::/pods/flux/server\n");
  write("sys/fs/cgroup/pods/flux/server/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/pods/flux/cpu.max", "400000 100000\n");
  write("sys/fs/cgroup/pods/cpu.max", "1600000 100000\n");
  EXPECT_EQ(cpu_quota(root_), 4.0);
}

TEST_F(CpuQuota, Version1) {
  write("proc/self/cgroup", "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_FALSE(cpu_quota(root_));
  write("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpu_quota(root_), 0.5);
}

TEST_F(CpuQuota, WhatMakesNoSenseIsNoLimit) {
  EXPECT_FALSE(cpu_quota(root_));
  write("proc/self/cgroup", "nonsense\n\n0:\n0::/\n");
  for (const char* text : {"", "100000", "0 100000", "-5 100000", "100000 0", "many 100000"}) {
    write("sys/fs/cgroup/cpu.max", text);
    EXPECT_FALSE(cpu_quota(root_)) << text;
  }
}

}  // namespace
}  // namespace flux
