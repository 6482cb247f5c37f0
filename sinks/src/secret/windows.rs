//! Calls to Windows, each behind a safe function.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io::{Error, Result};
use std::os::windows::ffi::OsStrExt as _;
use std::os::windows::io::FromRawHandle as _;
use std::path::Path;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::{GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::Cryptography::{
    CRYPT_INTEGER_BLOB, CRYPTPROTECT_LOCAL_MACHINE, CRYPTPROTECT_UI_FORBIDDEN, CryptProtectData,
    CryptUnprotectData,
};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{CREATE_NEW, CreateFileW, FILE_ATTRIBUTE_NORMAL, ReplaceFileW};

use super::dpapi::Scope;

/// Everything for the system, administrators and the owner; nothing is inherited from the folder.
const PRIVATE: &str = "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)";

/// Memory of the system's local heap, freed when it is let go of.
struct Local(*mut c_void);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: the call that filled it in says that it is to be freed with LocalFree; this is its only owner.
        unsafe { LocalFree(self.0) };
    }
}

/// A blob that the system only reads, though its type could be written to.
fn blob(bytes: &[u8]) -> Result<CRYPT_INTEGER_BLOB> {
    let len = u32::try_from(bytes.len()).map_err(|_| Error::from(std::io::ErrorKind::FileTooLarge))?;
    Ok(CRYPT_INTEGER_BLOB { cbData: len, pbData: bytes.as_ptr().cast_mut() })
}

/// Copies what the system answered, and leaves no second copy of it in memory.
fn taken(answer: CRYPT_INTEGER_BLOB) -> Vec<u8> {
    let owned = Local(answer.pbData.cast());
    if owned.0.is_null() {
        return Vec::new();
    }
    // SAFETY: on success the system has allocated and written cbData bytes there, and nobody else has them.
    let bytes = unsafe { std::slice::from_raw_parts_mut(answer.pbData, answer.cbData as usize) };
    let out = bytes.to_vec();
    bytes.fill(0);
    out
}

pub(super) fn seal(plain: &[u8], scope: Scope) -> Result<Vec<u8>> {
    let from = blob(plain)?;
    let mut to = CRYPT_INTEGER_BLOB::default();
    let scope = match scope {
        Scope::Machine => CRYPTPROTECT_LOCAL_MACHINE,
        Scope::User => 0,
    };
    let flags = CRYPTPROTECT_UI_FORBIDDEN | scope;
    // SAFETY: `from` names `plain`, which is only read and outlives the call; everything that may be left out is
    // null; `to` is writable.
    let done = unsafe { CryptProtectData(&from, null(), null(), null(), null(), flags, &mut to) };
    if done == 0 { Err(Error::last_os_error()) } else { Ok(taken(to)) }
}

pub(super) fn unseal(sealed: &[u8]) -> Result<Vec<u8>> {
    let from = blob(sealed)?;
    let mut to = CRYPT_INTEGER_BLOB::default();
    // SAFETY: `from` names `sealed`, which is only read and outlives the call; no description is asked for, and
    // everything else that may be left out is null; `to` is writable.
    let done = unsafe {
        CryptUnprotectData(&from, null_mut(), null(), null(), null(), CRYPTPROTECT_UI_FORBIDDEN, &mut to)
    };
    if done == 0 { Err(Error::last_os_error()) } else { Ok(taken(to)) }
}

fn wide(text: &std::ffi::OsStr) -> Result<Vec<u16>> {
    let mut wide: Vec<u16> = text.encode_wide().collect();
    if wide.contains(&0) {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    wide.push(0);
    Ok(wide)
}

pub(super) fn create_private(path: &Path) -> Result<File> {
    let (sddl, path) = (wide(PRIVATE.as_ref())?, wide(path.as_os_str())?);
    let mut descriptor = null_mut();
    // SAFETY: the text ends with a zero; `descriptor` is writable; the length is not asked for.
    let made = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            sddl.as_ptr(),
            SDDL_REVISION_1,
            &mut descriptor,
            null_mut(),
        )
    };
    if made == 0 {
        return Err(Error::last_os_error());
    }
    let descriptor = Local(descriptor);
    let attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    // SAFETY: the path ends with a zero; `attributes` says its own length and names a descriptor that is freed only
    // after the call.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            GENERIC_WRITE,
            0,
            &attributes,
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL,
            null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(Error::last_os_error());
    }
    // SAFETY: the handle was just opened, is valid, and is owned by nobody else.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// Replaces a file; the new one has the permissions of the old.
pub(super) fn put_in_place(second: &Path, path: &Path) -> Result<()> {
    // whole paths: it looks for the folder in them
    let whole = |path| std::path::absolute(path).and_then(|p| wide(p.as_os_str()));
    let (second, path) = (whole(second)?, whole(path)?);
    // SAFETY: both paths end with a zero; no backup is asked for; what is reserved is null.
    let done = unsafe { ReplaceFileW(path.as_ptr(), second.as_ptr(), null(), 0, null(), null()) };
    if done == 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
